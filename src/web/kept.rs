//! A connection that is kept open: requests go over it one after the other, each answer read to its end before the next one.
//!
//! Whoever asks waits as long as he likes, and throws the connection away when an answer was not read to its end: what is left of it
//! would be taken for the next one. Which hosts are never asked holds here too, for it is looked at where a connection is made. What is
//! not here: redirects, which are an answer like any other, and trying again.

use std::future::poll_fn;
use std::pin::Pin;

use hyper::body::{Body as _, Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::task::JoinSet;

use super::trust::Tls;
use super::{NoAnswer, Reach, complete, connect, once, said};
use crate::model::web_address::WebAddress;

/// So much is taken of an answer at once, its head included: with more, what was decrypted has left the processor's cache before it is used.
const READ_AT_ONCE: usize = 128 << 10;

/// An open connection to one server.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Whose; its target is not used.
    server: WebAddress,
    sender: SendRequest<String>,
    /// Drives the connection until this is dropped.
    _connection: JoinSet<()>,
}

/// What came back, its body still on the way.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    /// Its end was seen.
    is_read: bool,
}

impl Said {
    /// The next piece of the body; none at its end. An end that came too early is an error.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, NoAnswer> {
        loop {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            match frame.transpose() {
                Ok(None) => {
                    self.is_read = true;
                    return Ok(None);
                }
                // What is no data is a trailer, which nobody asks for.
                Ok(Some(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
                Err(error) => return Err(NoAnswer::Failed(format!("an answer broke off: {}", said(&error)))),
            }
        }
    }

    /// Whether all of the body has been read.
    pub(crate) fn is_read(&self) -> bool {
        self.is_read || self.body.is_end_stream()
    }
}

impl Kept {
    /// Connects to a server, over TLS where its address says so.
    pub(crate) async fn open(server: WebAddress, tls: &Tls) -> Result<Kept, NoAnswer> {
        let plain = connect(&server.host, server.port, Reach::Anybody, &once).await?;
        let stream = match server.is_https {
            true => tls.over(plain, &server.host).await?,
            false => Box::new(plain),
        };
        let mut http = http1::Builder::new();
        let begun = http.max_buf_size(READ_AT_ONCE).handshake(TokioIo::new(stream)).await;
        let (sender, connection) =
            begun.map_err(|error| NoAnswer::Failed(format!("{server} broke off: {}", said(&error))))?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What is wrong with it is told to who waits for an answer.
            let _ = connection.await;
        });
        Ok(Kept { server, sender, _connection: driver })
    }

    /// Asks for something, and waits until its answer begins.
    pub(crate) async fn ask(
        &mut self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: String,
    ) -> Result<Said, NoAnswer> {
        let broken =
            |error: hyper::Error| NoAnswer::Failed(format!("{} broke off: {}", self.server, said(&error)));
        self.sender.ready().await.map_err(broken)?;
        let message = complete(
            hyper::Request::builder().method(method).uri(target).header(HOST, self.server.authority()),
            body,
            headers,
        )?;
        let answer = self.sender.send_request(message).await.map_err(broken)?;
        let (head, body) = answer.into_parts();
        Ok(Said { status: head.status, headers: head.headers, body, is_read: false })
    }

    /// Whether the server has hung up, as far as is known.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;
    use crate::web::{Trust, address};

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    /// Answers on one connection with these, one after the other, then hangs up.
    fn server(answers: &'static [&'static str]) -> (WebAddress, std::thread::JoinHandle<Vec<String>>) {
        let door = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = address(&format!("http://{}", door.local_addr().unwrap())).unwrap();
        let hand = std::thread::spawn(move || {
            let (mut stream, _) = door.accept().unwrap();
            let mut heard = Vec::new();
            for answer in answers {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                heard.push(String::from_utf8(request).unwrap());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            heard
        });
        (server, hand)
    }

    async fn whole(said: &mut Said) -> Result<String, NoAnswer> {
        let mut text = String::new();
        while let Some(piece) = said.next().await? {
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        Ok(text)
    }

    #[test]
    fn requests_go_over_one_connection_and_an_answer_that_breaks_off_is_an_error() {
        let (server, hand) = server(&[
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none",
            "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nthree",
        ]);
        run(async {
            let tls = Tls::new(Trust::Anything).unwrap();
            let mut kept = Kept::open(server, &tls).await.unwrap();
            let get = || (Method::GET, "/a?b", HeaderMap::new(), String::new());
            for (status, text) in [(200, "one"), (404, "two")] {
                let (method, target, headers, body) = get();
                let mut said = kept.ask(method, target, headers, body).await.unwrap();
                assert_eq!((said.status.as_u16(), whole(&mut said).await.unwrap().as_str()), (status, text));
                assert!(said.is_read());
            }
            let (method, target, headers, body) = get();
            let mut said = kept.ask(method, target, headers, body).await.unwrap();
            assert!(matches!(whole(&mut said).await, Err(NoAnswer::Failed(_))));
            let (method, target, headers, body) = get();
            assert!(kept.ask(method, target, headers, body).await.is_err());
            assert!(kept.is_closed());
        });
        let heard = hand.join().unwrap();
        assert_eq!(heard.len(), 3);
        assert!(heard[0].starts_with("GET /a?b HTTP/1.1\r\nhost: 127.0.0.1:"), "{}", heard[0]);
    }
}
