"""CloudEvents over HTTP: encoding what is sent, decoding what is received."""
