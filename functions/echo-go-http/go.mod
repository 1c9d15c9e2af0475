module echo-go-http

go 1.24
