//! An application that knows nothing of tokens, for the proxy to have something to pass on.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::response::Html;
use axum::routing::{get, post};
use tokio::net::TcpListener;

/// Starts the application on a free port, and returns its address.
pub(crate) async fn start(embed_script: &str) -> io::Result<String> {
    let page = format!(
        r#"<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <title>Roadmap</title>
    <link rel="icon" href="data:,">
    <script src="{embed_script}" defer></script>
  </head>
  <body>
    <h1>Roadmap</h1>
    <p>Another application wrote this page. The proxy in front of it fills in the token.</p>
    <released-page channel-id="demo-channel"></released-page>
  </body>
</html>
"#
    );
    let app = Router::new()
        .route("/", get(async move || Html(page)))
        // What is sent comes back while it is sent.
        .route("/echo", post(async |body: Body| body));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(format!("http://{address}"))
}
