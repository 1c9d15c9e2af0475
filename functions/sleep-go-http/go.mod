module sleep-go-http

go 1.24
