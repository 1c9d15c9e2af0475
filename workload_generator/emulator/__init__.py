"""The embedded platform: functions as local processes, scaled and routed as Knative does it."""
