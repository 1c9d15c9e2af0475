//! Answers `true` to an instance's first request and `false` to every later one.

use std::env;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_web::http::header::ContentType;
use actix_web::web::{self, Bytes, Data, PayloadConfig, ServiceConfig};
use actix_web::{App, HttpResponse, HttpServer, Responder};

/// How long requests in flight at SIGTERM get, in seconds.
const GRACE_S: u64 = 10;
/// Longer than callers keep idle connections: it is they who close them.
const KEEP_ALIVE: Duration = Duration::from_secs(120);
/// The largest body that is read.
const LARGEST: usize = 32 << 20;

/// One instance: its name, and whether its first request is still to come.
struct Instance {
    name: String,
    first: AtomicBool,
}

#[actix_web::main]
async fn main() -> io::Result<()> {
    let address = listen_address(variable("BIND"), variable("PORT"))?;
    let instance = Data::new(Instance::new(instance_name()));
    HttpServer::new(move || App::new().configure(|app| routes(app, instance.clone())))
        .keep_alive(KEEP_ALIVE)
        .shutdown_timeout(GRACE_S)
        .bind(address)?
        .run()
        .await
}

/// The routes; the health checks never count as the first request.
fn routes(app: &mut ServiceConfig, instance: Data<Instance>) {
    app.app_data(instance)
        .app_data(PayloadConfig::new(LARGEST))
        .service(web::resource("/").get(answer).head(answer).post(answer))
        .route("/health/liveness", web::get().to(health))
        .route("/health/readiness", web::get().to(health));
}

async fn answer(instance: Data<Instance>, _body: Bytes) -> impl Responder {
    HttpResponse::Ok()
        .content_type(ContentType::plaintext())
        .insert_header(("x-instance", instance.name.as_str()))
        .body(instance.answer())
}

async fn health() -> &'static str {
    "ok"
}

impl Instance {
    fn new(name: String) -> Self {
        Instance {
            name,
            first: AtomicBool::new(true),
        }
    }

    fn answer(&self) -> &'static str {
        if self.first.swap(false, Ordering::Relaxed) {
            "true"
        } else {
            "false"
        }
    }
}

/// `$BIND` (every interface) and `$PORT` (8080).
fn listen_address(bind: Option<String>, port: Option<String>) -> io::Result<(String, u16)> {
    let port = port.unwrap_or_else(|| "8080".into());
    let number = port.parse().map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("PORT={port}: not a port"),
        )
    })?;
    Ok((bind.unwrap_or_else(|| "0.0.0.0".into()), number))
}

/// The pod's name in a cluster, and the host's elsewhere.
fn instance_name() -> String {
    variable("HOSTNAME")
        .or_else(|| hostname::get().ok()?.into_string().ok())
        .unwrap_or_else(|| "unknown".into())
}

/// An environment variable that is set, and not to nothing.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::{Method, StatusCode};
    use actix_web::test::{TestRequest, call_service, init_service, read_body};

    #[actix_web::test]
    async fn only_the_first_request_is_answered_true() {
        let instance = Data::new(Instance::new("pod-1".into()));
        let app = init_service(App::new().configure(|app| routes(app, instance.clone()))).await;
        for (method, path, size, status, body) in [
            (Method::GET, "/health/liveness", 0, 200, "ok"),
            (Method::GET, "/health/readiness", 0, 200, "ok"),
            (Method::GET, "/nothing", 0, 404, ""),
            (Method::POST, "/", 1 << 20, 200, "true"),
            (Method::GET, "/", 0, 200, "false"),
            (Method::HEAD, "/", 0, 200, "false"), // the server, not the service, leaves out a HEAD's body
        ] {
            let request = TestRequest::with_uri(path)
                .method(method.clone())
                .set_payload(vec![0; size])
                .to_request();
            let response = call_service(&app, request).await;
            assert_eq!(
                response.status(),
                StatusCode::from_u16(status).unwrap(),
                "{method} {path}"
            );
            if path == "/" {
                assert_eq!(response.headers().get("x-instance").unwrap(), "pod-1");
                assert_eq!(
                    response.headers().get("content-type").unwrap(),
                    "text/plain; charset=utf-8"
                );
            }
            assert_eq!(read_body(response).await, body, "{method} {path}");
        }
    }

    #[test]
    fn one_of_fifty_threads_is_the_first() {
        let instance = Instance::new("pod-1".into());
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(|| instance.answer())).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(answers.iter().filter(|text| **text == "true").count(), 1);
        assert_eq!(answers.iter().filter(|text| **text == "false").count(), 49);
    }

    #[test]
    fn the_address_comes_from_the_environment() {
        assert_eq!(
            listen_address(None, None).unwrap(),
            ("0.0.0.0".into(), 8080)
        );
        assert_eq!(
            listen_address(Some("127.0.0.1".into()), Some("9000".into())).unwrap(),
            ("127.0.0.1".into(), 9000)
        );
        let error = listen_address(None, Some("http".into())).unwrap_err();
        assert_eq!(error.to_string(), "PORT=http: not a port");
    }
}
