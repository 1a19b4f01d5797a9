//! A web server that gets notifications: it keeps what it got, and answers as a test wants it to.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::loopback::own_address;

/// How it answers one request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// With this status, and this further line in the head.
    Status(u16, &'static str),
    /// Never.
    Hang,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Hit {
    /// Path and query.
    pub target: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
    /// How it was answered.
    pub answer: Option<u16>,
    /// When it was there.
    pub at: Instant,
}

impl Hit {
    /// The id of its delivery.
    pub fn id(&self) -> &str {
        &self.headers["x-hyper2kvm-delivery"]
    }

    /// The body.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// Which event it is about.
    pub fn event(&self) -> &str {
        &self.headers["x-hyper2kvm-event"]
    }
}

#[derive(Debug)]
struct Shared {
    hits: Mutex<Vec<Hit>>,
    answers: Mutex<VecDeque<Answer>>,
    otherwise: Mutex<Answer>,
}

/// The server; its threads end with the test.
#[derive(Debug, Clone)]
pub struct WebReceiver {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl WebReceiver {
    /// One that answers 200.
    pub fn start() -> WebReceiver {
        WebReceiver::at("127.0.0.1:0".parse().unwrap())
    }

    /// One at an address at which another one was, or will be.
    pub fn at(address: SocketAddr) -> WebReceiver {
        let listener = TcpListener::bind(address).unwrap();
        let receiver = WebReceiver {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared {
                hits: Mutex::default(),
                answers: Mutex::default(),
                otherwise: Mutex::new(Answer::Status(200, "")),
            }),
        };
        let shared = Arc::clone(&receiver.shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&stream, &shared));
            }
        });
        receiver
    }

    /// Where nobody listens but whoever is put there.
    pub fn nobody() -> SocketAddr {
        (own_address(), 8999).into()
    }

    /// `http://…` with this path.
    pub fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    /// The next requests are answered so, one each.
    pub fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.answers.lock().unwrap().extend(answers);
    }

    /// All others are answered so.
    pub fn answer_all(&self, answer: Answer) {
        *self.shared.otherwise.lock().unwrap() = answer;
    }

    /// What came.
    pub fn hits(&self) -> Vec<Hit> {
        self.shared.hits.lock().unwrap().clone()
    }

    /// What came and was taken, in its order.
    pub fn taken(&self) -> Vec<Hit> {
        self.hits().into_iter().filter(|hit| hit.answer == Some(200)).collect()
    }
}

fn serve(stream: &TcpStream, shared: &Shared) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let Some(mut hit) = read(stream) else { return };
    let next = shared.answers.lock().unwrap().pop_front();
    let answer = next.unwrap_or_else(|| shared.otherwise.lock().unwrap().clone());
    match answer {
        Answer::Status(status, line) => {
            hit.answer = Some(status);
            shared.hits.lock().unwrap().push(hit);
            let line = if line.is_empty() { String::new() } else { format!("{line}\r\n") };
            let text =
                format!("HTTP/1.1 {status} Said\r\n{line}Content-Length: 4\r\nConnection: close\r\n\r\nsaid");
            let mut stream = stream;
            let _ = stream.write_all(text.as_bytes());
        }
        Answer::Hang => {
            shared.hits.lock().unwrap().push(hit);
            // Until the other end gives up.
            let mut stream = stream;
            let _ = stream.read(&mut [0]);
        }
    }
}

fn read(stream: &TcpStream) -> Option<Hit> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let target = line.split_whitespace().nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.to_owned()),
            None => break,
        };
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    Some(Hit { target, headers, body: String::from_utf8(body).ok()?, answer: None, at: Instant::now() })
}
