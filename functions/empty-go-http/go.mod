module empty-go-http

go 1.24
