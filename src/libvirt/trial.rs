//! A machine that is only tried: it lives as long as its connection, and libvirt is never waited for by whoever watches it.
//!
//! The machine is transient and destroyed by libvirt itself when the connection ends, however that comes about. One thread has the
//! connection and says what becomes of it; whoever watches asks and listens, and sees by [`Trial::busy_for`] when libvirt hangs. libvirt forgets whose machine it
//! was when it is killed itself: then the machine is destroyed by its name over another connection, or by the next trial. What is
//! not here: the machine's XML, and what a guest says.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use virt::domain::Domain;
use virt::error::ErrorNumber;
use virt::stream::Stream;
use virt::sys;

use super::failure::{is_broken, told};
use super::link::{Access, Link};
use crate::model::error::{Error, Kind, Result};

/// How the names of all machines that are tried begin.
pub const PREFIX: &str = "h2k-test-";
/// How often libvirt is asked how the machine is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Larger pictures are not of any screen.
const PICTURE_BYTES: usize = 32 << 20;
const PIECE_BYTES: usize = 64 << 10;
/// A libvirt that was killed is back after so long, or somebody has to look after it.
const BACK_WITHIN: Duration = Duration::from_secs(30);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Whether libvirt answers at all is known after this.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What became of the machine.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// It is there, and waits.
    Made,
    /// It is as it should be; its processors had so much time.
    Is {
        /// Of all its processors.
        processor_time: Duration,
    },
    /// What its screen shows; none where libvirt cannot tell.
    Picture(Option<Vec<u8>>),
    /// Its guest crashed.
    Crashed,
    /// It is off.
    Off,
    /// libvirt refused, or is not there any more. Nothing more will be told.
    Failed(Error),
}

#[derive(Debug)]
enum Ask {
    GoOn,
    StandStill,
    Picture,
}

/// One machine. Dropping it ends it, as soon as libvirt lets it.
#[derive(Debug)]
pub struct Trial {
    asks: Option<Sender<Ask>>,
    told: Receiver<Told>,
    ended: Receiver<Result<()>>,
    busy: Arc<Mutex<Option<Instant>>>,
}

impl Trial {
    /// Has it made, by this libvirt. No other machine may ever have this name.
    pub fn start(uri: &str, name: &str, xml: String) -> Result<Trial> {
        let (asks, asked) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let busy = Arc::new(Mutex::new(Some(Instant::now())));
        let live = Live { uri: uri.to_owned(), name: name.to_owned(), asked, tell, busy: Arc::clone(&busy) };
        let spawned = thread::Builder::new().name("libvirt trial".to_owned()).spawn(move || {
            let _ = end.send(live.live(&xml));
        });
        spawned.map_err(|error| Error::internal(format!("nobody can ask libvirt: {error}")))?;
        Ok(Trial { asks: Some(asks), told, ended, busy })
    }

    /// What was told since it was asked last.
    pub fn heard(&self) -> Vec<Told> {
        self.told.try_iter().collect()
    }

    /// Lets it run, or go on.
    pub fn go_on(&self) {
        self.ask(Ask::GoOn);
    }

    /// Lets it stand still.
    pub fn stand_still(&self) {
        self.ask(Ask::StandStill);
    }

    /// Asks for a picture of its screen.
    pub fn take_picture(&self) {
        self.ask(Ask::Picture);
    }

    fn ask(&self, ask: Ask) {
        // Who is not there any more has said why.
        let _ = self.asks.as_ref().map(|asks| asks.send(ask));
    }

    /// How long libvirt has not answered.
    #[must_use]
    pub fn busy_for(&self) -> Duration {
        lock(&self.busy).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends it, and waits so long until it is gone. An error: it may still be there.
    pub fn end(mut self, within: Duration) -> Result<()> {
        self.asks = None;
        self.ended.recv_timeout(within).unwrap_or_else(|_| Err(silent(within)))
    }
}

fn lock(busy: &Mutex<Option<Instant>>) -> MutexGuard<'_, Option<Instant>> {
    busy.lock().unwrap_or_else(PoisonError::into_inner)
}

/// libvirt did not answer for so long.
#[must_use]
pub fn silent(within: Duration) -> Error {
    Error::new(Kind::Libvirt, format!("libvirt did not answer for {:.0} s", within.as_secs_f64()))
        .advice("see what keeps libvirtd (or virtqemud) busy; restart it if it hangs")
        .transient()
}

/// The users as which this libvirt runs its QEMUs, in a time in which one that works answers. It has to be one of this host that runs QEMU.
pub fn users(uri: &str) -> Result<Vec<u32>> {
    let given = uri.to_owned();
    let (answer, answered) = mpsc::channel();
    thread::spawn(move || answer.send(look_at_users(&given)));
    answered.recv_timeout(ANSWERS_WITHIN).unwrap_or_else(|_| Err(silent(ANSWERS_WITHIN)))
}

fn look_at_users(uri: &str) -> Result<Vec<u32>> {
    let link = Link::open(uri, Access::Changes)?;
    let cannot = |why: &str| {
        Error::new(Kind::Unsupported, format!("machines cannot be tried through {uri}: {why}"))
            .advice("name a libvirt of this host that runs QEMU: `qemu:///system`")
    };
    let failed = |error| told("cannot ask libvirt what it can do", &error);
    if link.raw().get_type().map_err(failed)? != "QEMU" {
        return Err(cannot("it runs no QEMU"));
    }
    // Where the URI names a host it is one that does not see the sockets of this one.
    let authority = uri.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    if !authority.is_empty() {
        return Err(cannot("it is another host's"));
    }
    Ok(users_in(&link.raw().get_capabilities().map_err(failed)?))
}

/// `<secmodel><model>dac</model><baselabel type='kvm'>+64055:+64055</baselabel>`
fn users_in(capabilities: &str) -> Vec<u32> {
    let Ok(document) = roxmltree::Document::parse(capabilities) else { return Vec::new() };
    let models = document.descendants().filter(|node| node.has_tag_name("secmodel"));
    let labels = models
        .filter(|model| {
            model.children().any(|child| child.has_tag_name("model") && child.text() == Some("dac"))
        })
        .flat_map(|model| model.children().filter(|child| child.has_tag_name("baselabel")));
    let mut users: Vec<u32> = labels
        .filter_map(|label| label.text()?.split(':').next()?.trim_start_matches('+').parse().ok())
        .collect();
    users.dedup();
    users
}

/// The thread that has the connection.
struct Live {
    uri: String,
    name: String,
    asked: Receiver<Ask>,
    tell: Sender<Told>,
    busy: Arc<Mutex<Option<Instant>>>,
}

impl Live {
    fn live(&self, xml: &str) -> Result<()> {
        let link = match self.busy(|| Link::open(&self.uri, Access::Changes)) {
            Ok(link) => link,
            Err(error) => {
                self.tell(Told::Failed(error));
                return Ok(());
            }
        };
        let made = self.busy(|| {
            end_orphans(&link);
            let flags = sys::VIR_DOMAIN_START_PAUSED | sys::VIR_DOMAIN_START_AUTODESTROY;
            Domain::create_xml(link.raw(), xml, flags)
        });
        let domain = match made {
            Ok(domain) => domain,
            Err(error) => {
                self.tell(Told::Failed(told("libvirt does not start the test machine", &error)));
                // It was cut off in the midst of it.
                return if is_broken(&error) { self.busy(|| self.end_later()) } else { Ok(()) };
            }
        };
        self.tell(Told::Made);
        if let Err(error) = self.watch(&link, &domain) {
            self.tell(Told::Failed(told("libvirt does not tell how the test machine is", &error)));
        }
        self.busy(|| match domain.destroy() {
            Ok(()) => Ok(()),
            Err(error) if is_gone(&error) => Ok(()),
            Err(error) if is_broken(&error) => self.end_later(),
            Err(error) => Err(told("cannot end the test machine", &error)),
        })
    }

    /// The libvirt that had the machine is gone: the one that comes after it has the machine, and does not know that it is to be destroyed.
    fn end_later(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let ended = Link::open(&self.uri, Access::Changes).and_then(|link| {
                let found =
                    Domain::lookup_by_name(link.raw(), &self.name).and_then(|domain| domain.destroy());
                match found {
                    Err(error) if !is_gone(&error) => Err(told("cannot end the test machine", &error)),
                    _ => Ok(()),
                }
            });
            match ended {
                Err(_) if begun.elapsed() < BACK_WITHIN => thread::sleep(TRY_AGAIN_AFTER),
                ended => return ended,
            }
        }
    }

    fn tell(&self, what: Told) {
        // Who does not listen any more wants it to end.
        let _ = self.tell.send(what);
    }

    fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        *lock(&self.busy) = Some(Instant::now());
        let result = work();
        *lock(&self.busy) = None;
        result
    }

    /// Does what is asked, and looks at it meanwhile, until nobody asks any more or there is nothing to be looked at.
    fn watch(&self, link: &Link, domain: &Domain) -> std::result::Result<(), virt::error::Error> {
        loop {
            let asked = self.asked.recv_timeout(LOOK_EVERY);
            let done = self.busy(|| match asked {
                Ok(Ask::GoOn) => domain.resume().map(|_| true),
                Ok(Ask::StandStill) => domain.suspend().map(|_| true),
                Ok(Ask::Picture) => {
                    self.tell(Told::Picture(picture(link, domain).ok()));
                    Ok(true)
                }
                Err(RecvTimeoutError::Timeout) => self.look(domain),
                Err(RecvTimeoutError::Disconnected) => Ok(false),
            });
            match done {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(error) if is_gone(&error) => {
                    self.tell(Told::Off);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn look(&self, domain: &Domain) -> std::result::Result<bool, virt::error::Error> {
        let found = domain.get_info()?;
        self.tell(match found.state {
            sys::VIR_DOMAIN_CRASHED => Told::Crashed,
            sys::VIR_DOMAIN_SHUTOFF => Told::Off,
            _ => Told::Is { processor_time: Duration::from_nanos(found.cpu_time) },
        });
        Ok(found.state != sys::VIR_DOMAIN_SHUTOFF)
    }
}

/// A machine that ends vanishes at once.
fn is_gone(error: &virt::error::Error) -> bool {
    error.code() == ErrorNumber::NoDomain
}

fn picture(link: &Link, domain: &Domain) -> std::result::Result<Vec<u8>, virt::error::Error> {
    let stream = Stream::new(link.raw(), 0)?;
    domain.screenshot(&stream, 0, 0)?;
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    loop {
        match stream.recv(&mut piece)? {
            0 => break,
            count => bytes.extend_from_slice(&piece[..count]),
        }
        if bytes.len() > PICTURE_BYTES {
            bytes.clear();
            let _ = stream.abort();
            return Ok(bytes);
        }
    }
    stream.finish()?;
    Ok(bytes)
}

/// Ends machines of trials that were killed together with their libvirt: nobody answers any more where their disks were served.
fn end_orphans(link: &Link) {
    let domains = link.raw().list_all_domains(sys::VIR_CONNECT_LIST_DOMAINS_TRANSIENT);
    for domain in domains.unwrap_or_default() {
        let Ok(name) = domain.get_name() else { continue };
        let is_orphan = name.starts_with(PREFIX)
            && domain.get_xml_desc(0).is_ok_and(|xml| {
                disks_of(&xml).is_some_and(|socket| UnixStream::connect(Path::new(&socket)).is_err())
            });
        if is_orphan {
            tracing::warn!(machine = name, "a test machine that was left is destroyed");
            let _ = domain.destroy();
        }
    }
}

/// Where the disks of a machine are served.
fn disks_of(xml: &str) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let mut hosts = document.descendants().filter(|node| node.has_tag_name("host"));
    hosts.find_map(|host| host.attribute("socket").map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::error::Disposition;

    #[test]
    fn the_users_of_qemu_are_those_of_libvirts_capabilities() {
        let text = "<capabilities><host><secmodel><model>selinux</model><baselabel type='kvm'>x_u:y</baselabel></secmodel>\
            <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+108</baselabel>\
            <baselabel type='qemu'>+64055:+108</baselabel></secmodel></host></capabilities>";
        assert_eq!(users_in(text), [64055]);
        assert!(users_in("<capabilities/>").is_empty() && users_in("<").is_empty());
    }

    #[test]
    fn where_the_disks_of_a_machine_are_served_is_in_its_definition() {
        let xml = "<domain><devices><disk><source protocol='nbd'><host transport='unix' socket='/t/disks'/></source></disk></devices></domain>";
        assert_eq!(disks_of(xml).as_deref(), Some("/t/disks"));
        assert_eq!(disks_of("<domain/>"), None);
    }

    #[test]
    fn only_a_libvirt_of_this_host_that_runs_qemu_can_try_a_machine() {
        let error = users("test:///default").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error}");
        assert!(
            users("qemu+unix:///system?socket=/nowhere").unwrap_err().disposition() == Disposition::Transient
        );
    }

    #[test]
    fn what_libvirt_refuses_is_told_and_there_is_nothing_to_end() {
        let trial = Trial::start("test:///default", "h2k-test-x", "<domain/>".to_owned()).unwrap();
        let begun = Instant::now();
        let told = loop {
            let mut heard = trial.heard();
            if let Some(told) = heard.pop() {
                break told;
            }
            assert!(begun.elapsed() < Duration::from_secs(60));
            thread::sleep(Duration::from_millis(10));
        };
        assert!(matches!(told, Told::Failed(_)), "{told:?}");
        trial.end(Duration::from_secs(60)).unwrap();
    }
}
