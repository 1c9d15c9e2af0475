package main

import (
	"os"
	"testing"
)

func TestListenAddress(t *testing.T) {
	t.Setenv("PORT", "")
	t.Setenv("BIND", "")
	if got := listenAddress(); got != ":8080" {
		t.Errorf("address: %q", got)
	}
	t.Setenv("PORT", "9000")
	t.Setenv("BIND", "127.0.0.1")
	if got := listenAddress(); got != "127.0.0.1:9000" {
		t.Errorf("address: %q", got)
	}
}

func TestInstanceName(t *testing.T) {
	t.Setenv("HOSTNAME", "pod-2")
	if got := instanceName(); got != "pod-2" {
		t.Errorf("instance: %q", got)
	}
	t.Setenv("HOSTNAME", "")
	want, _ := os.Hostname()
	if got := instanceName(); got != want {
		t.Errorf("instance: %q", got)
	}
}
