//! A network that fails: a relay of TCP connections that cuts, resets, stalls and slows them, to a byte now and then, as a test says.
//!
//! It knows nothing of what passes through; what goes wrong in HTTP itself is ordered of the server (`Vcenter::fault`).

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What becomes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is closed after the server has sent this many bytes.
    CutAfter(u64),
    /// It is reset after the server has sent this many bytes.
    ResetAfter(u64),
    /// Nothing passes any more after the server has sent this many bytes; it stays open.
    StallAfter(u64),
    /// A byte now and then after the server has sent this many bytes.
    DripAfter(u64),
    /// So many bytes a second, at most.
    Slow(u64),
    /// It is closed before anything has passed.
    Refuse,
}

#[derive(Debug, Default)]
struct Shared {
    next: Mutex<VecDeque<Fault>>,
    open: Mutex<Vec<TcpStream>>,
    down: AtomicBool,
    connections: AtomicU64,
    passed: AtomicU64,
}

/// The relay; its threads end with the test.
#[derive(Debug, Clone)]
pub struct Relay {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Relay {
    /// One that lets everything pass to this address.
    pub fn to(server: &str) -> Relay {
        Relay::at("127.0.0.1:0", server)
    }

    /// The same at an address of its own.
    pub fn at(address: &str, server: &str) -> Relay {
        let server: SocketAddr = server.parse().unwrap();
        let listener = TcpListener::bind(address).unwrap();
        let relay = Relay { shared: Arc::default(), address: listener.local_addr().unwrap() };
        let shared = Arc::clone(&relay.shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let fault = shared.next.lock().unwrap().pop_front();
                if shared.down.load(Ordering::SeqCst) || fault == Some(Fault::Refuse) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(server) else { continue };
                relay_both(&shared, &client, &server, fault);
            }
        });
        relay
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connections fail so, one each; those after them do not.
    pub fn fail_next(&self, faults: impl IntoIterator<Item = Fault>) {
        self.shared.next.lock().unwrap().extend(faults);
    }

    /// None of those that come fails any more; those that are open are closed.
    pub fn calm(&self) {
        self.shared.next.lock().unwrap().clear();
        self.cut();
    }

    /// Closes all that are open now.
    pub fn cut(&self) {
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// While it is down, what is open is closed, and what comes is too.
    pub fn down(&self, down: bool) {
        self.shared.down.store(down, Ordering::SeqCst);
        if down {
            self.cut();
        }
    }

    /// How many connections came.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes the server has sent through it.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }
}

fn relay_both(shared: &Arc<Shared>, client: &TcpStream, server: &TcpStream, fault: Option<Fault>) {
    let kept = [client, server].map(|stream| stream.try_clone().unwrap());
    shared.open.lock().unwrap().extend(kept);
    let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    let gone = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&gone);
    std::thread::spawn(move || {
        pump(&from, &to, None, &AtomicU64::new(0), &told);
        told.store(true, Ordering::SeqCst);
    });
    let (from, to, shared) = (server.try_clone().unwrap(), client.try_clone().unwrap(), Arc::clone(shared));
    std::thread::spawn(move || pump(&from, &to, fault, &shared.passed, &gone));
}

/// Passes bytes on until an end closes, or the fault says so. `gone`: the other direction has ended.
fn pump(
    mut from: &TcpStream,
    mut to: &TcpStream,
    fault: Option<Fault>,
    passed: &AtomicU64,
    gone: &AtomicBool,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut sent = 0;
    loop {
        let room = match fault {
            Some(Fault::CutAfter(limit) | Fault::ResetAfter(limit) | Fault::StallAfter(limit)) => {
                limit - sent
            }
            Some(Fault::DripAfter(limit)) => limit.saturating_sub(sent).max(1),
            Some(Fault::Slow(rate)) => (rate / 20).max(1),
            Some(Fault::Refuse) | None => u64::MAX,
        };
        if room == 0 {
            break;
        }
        let most = buffer.len().min(usize::try_from(room).unwrap_or(usize::MAX));
        let Ok(read) = from.read(&mut buffer[..most]) else { break };
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
        sent += read as u64;
        passed.fetch_add(read as u64, Ordering::SeqCst);
        match fault {
            Some(Fault::Slow(_)) => std::thread::sleep(Duration::from_millis(50)),
            Some(Fault::DripAfter(limit)) if sent > limit => {
                std::thread::sleep(Duration::from_millis(100));
            }
            _ => {}
        }
    }
    match fault {
        // Until the client gives up.
        Some(Fault::StallAfter(limit)) if sent == limit => {
            while !gone.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Some(Fault::ResetAfter(limit)) if sent == limit => {
            let _ = rustix::net::sockopt::set_socket_linger(to.as_fd(), Some(Duration::ZERO));
        }
        _ => {}
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
