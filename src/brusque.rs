//! A model server for tests that ends each connection after one streamed answer and says so nowhere, as llama.cpp's does: whoever asks
//! once more on it is not answered.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// Starts one that answers every request with two words until the test ends, and returns where.
pub(crate) async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // A client that goes away ends its connection.
            tokio::spawn(async move { serve(connection).await.ok() });
        }
    });
    address
}

async fn serve(mut connection: TcpStream) -> std::io::Result<()> {
    request(&mut connection).await?;
    let event = |data: &str| {
        let event = format!("data: {data}\n\n");
        format!("{:x}\r\n{event}\r\n", event.len())
    };
    let word = r#"{"choices":[{"delta":{"content":"word "}}]}"#;
    let usage = r#"{"choices":[],"usage":{"completion_tokens":2}}"#;
    let events: String = [word, word, usage, "[DONE]"].into_iter().map(event).collect();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    connection.write_all(format!("{head}{events}0\r\n\r\n").as_bytes()).await?;
    // Its end comes when the next request is on its way, or when there will be none.
    connection.read(&mut [0]).await.map(drop)
}

/// Reads one request to its end.
async fn request(connection: &mut TcpStream) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(());
            }
        }
        if connection.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
