//! Files on a host: looked at with `stat`, read with `dd` by ranges, over connections that fail.
//!
//! What has come is not asked for again. What is not here: connections, and what the bytes mean.

use std::sync::Arc;

use super::account::Account;
use super::command::quoted;
use super::pool::Pool;
use super::shell::{Answer, Shell};
use crate::disk::Control;
use crate::model::error::{Error, Kind, Result};
use crate::vsphere::Patience;
use crate::vsphere::folder::DatastorePath;

/// Where an ESXi host has its datastores.
const VOLUMES: &str = "/vmfs/volumes/";
/// Ranges begin and end at such places, but for the end of a file.
const LARGEST_BLOCK: u64 = 1 << 20;
const SMALLEST_BLOCK: u64 = 512;
/// What broke off is gone on with at such a place.
const REST_BLOCK: u64 = 64 << 10;
/// What begins a line that `stat` was asked for.
const MARK: &str = "=";

/// The files of a host.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pool: Arc<Pool>,
}

/// A file as it was when it was first looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct File {
    pub(super) place: DatastorePath,
    pub(super) size: u64,
    pub(super) inode: u64,
    /// When it was written to, and when something else of it was changed, in seconds.
    pub(super) written: i64,
    pub(super) changed: i64,
}

/// A path of a host's as a file of a datastore.
pub(crate) fn place(path: &str) -> Result<DatastorePath> {
    let unfit = || {
        let shown: String = path.chars().take(200).collect();
        Error::new(Kind::Source, format!("`{shown}` is no file of a datastore"))
            .advice("name it as the host does: `/vmfs/volumes/DATASTORE/DIRECTORY/NAME.vmx`")
    };
    let (datastore, file) =
        path.strip_prefix(VOLUMES).and_then(|rest| rest.split_once('/')).ok_or_else(unfit)?;
    if file.is_empty() || matches!(datastore, "." | "..") || datastore.contains(']') {
        return Err(unfit());
    }
    DatastorePath::parse(&format!("[{datastore}] {file}"))
}

/// The same the other way round.
pub(crate) fn on_host(place: &DatastorePath) -> String {
    format!("{VOLUMES}{}/{}", place.datastore, place.path)
}

impl Files {
    pub(super) fn new(account: Account, patience: Patience, connections: usize) -> Files {
        Files { pool: Pool::new(account, patience, connections) }
    }

    pub(super) fn host(&self) -> &str {
        &self.pool.account.host
    }

    /// For people: `[ds1] web/web.vmdk on esx.example.com`.
    pub(super) fn name(&self, place: &DatastorePath) -> String {
        format!("{place} on {}", self.host())
    }

    /// Looks at a file on which nobody works: how large it is, and what tells whether it was written to.
    pub(super) fn look(&self, place: &DatastorePath, control: &Control) -> Result<File> {
        let path = on_host(place);
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let (file, lock, directory) = (quoted(&path), quoted(&format!("{path}.lck")), quoted(directory));
        // Locks are files beside it, on NFS those of any file of the directory; on VMFS nobody else can read what is locked.
        let script = format!(
            "stat -c '{MARK}%i %s %Y %Z %F' {file} </dev/null 2>&1 && {{ set -- {directory}/.lck-*; if [ -e {lock} ] || [ -e \"$1\" ]; then echo locked; fi; }}"
        );
        let answer = self.asked(&script, control)?;
        if answer.code != 0 {
            return Err(self.unfit(place, &answer.words));
        }
        let (told, further) = answer.words.split_once('\n').unwrap_or((&answer.words, ""));
        let file = told.strip_prefix(MARK).and_then(|told| parsed(place, told));
        let Some((file, kind)) = file else {
            return Err(Error::new(
                Kind::Source,
                format!("{}: its `stat` says something else than was asked", self.host()),
            )
            .advice("see that it is an ESXi host, whose shell has BusyBox's `stat` and `dd`"));
        };
        if !kind.starts_with("regular") {
            return Err(Error::new(Kind::Source, format!("{} is a {kind}, and no file", self.name(place)))
                .rule("disk.outside")
                .source(self.name(place))
                .advice("name the file itself"));
        }
        match further.trim() {
            "locked" => Err(self.open_elsewhere(place)),
            _ => Ok(file),
        }
    }

    /// All of a small file that was looked at.
    pub(super) fn whole(&self, file: &File, control: &Control) -> Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(file.size).unwrap_or_default()];
        self.read(file, 0, &mut bytes, control)?;
        Ok(bytes)
    }

    /// Fills the buffer with what lies in a file.
    pub(super) fn read(&self, file: &File, at: u64, buffer: &mut [u8], control: &Control) -> Result<()> {
        if buffer.is_empty() {
            return Ok(());
        }
        let path = quoted(&on_host(&file.place));
        let mut done = 0;
        self.pool.patiently(control, &mut |shell, progress| {
            while done < buffer.len() {
                let place = (at + done as u64, path.as_str());
                let (came, told) = self.piece(shell, file, place, &mut buffer[done..], control);
                *progress |= came > 0;
                done += came;
                told?;
            }
            Ok(())
        })
    }

    /// Asks for a range; how much of it came, also where it broke off.
    fn piece(
        &self,
        shell: &mut Shell,
        file: &File,
        (at, path): (u64, &str),
        into: &mut [u8],
        control: &Control,
    ) -> (usize, Result<()>) {
        let block = block_of(at, into.len() as u64);
        // What was cut off in the middle of a block is asked for from the block's beginning.
        let before = usize::try_from(at % block).unwrap_or_default();
        let blocks = (before as u64 + into.len() as u64).div_ceil(block);
        let script =
            format!("dd if={path} bs={block} skip={} count={blocks} </dev/null 2>/dev/null", at / block);
        let mut sure = 0;
        let asked = if before == 0 {
            shell.ask(&script, into, &mut sure, control)
        } else {
            let mut aside = vec![0; before + into.len()];
            let asked = shell.ask(&script, &mut aside, &mut sure, control);
            sure = sure.saturating_sub(before);
            into[..sure].copy_from_slice(&aside[before..before + sure]);
            asked
        };
        match asked {
            Ok(answer) if sure == into.len() && answer.code == 0 => (sure, Ok(())),
            Ok(_) => (0, self.why(shell, file, path, control).and_then(Err)),
            Err(error) => {
                // The rest begins where a block does.
                let beyond = usize::try_from((at + sure as u64) % REST_BLOCK).unwrap_or_default();
                (sure.saturating_sub(beyond), Err(error))
            }
        }
    }

    /// Why less came than the file has.
    fn why(&self, shell: &mut Shell, file: &File, path: &str, control: &Control) -> Result<Error> {
        let script = format!("dd if={path} of=/dev/null bs={SMALLEST_BLOCK} count=1 </dev/null 2>&1");
        let answer = shell.ask(&script, &mut [], &mut 0, control)?;
        Ok(match answer.code {
            0 => self.changed(&file.place),
            _ => self.unfit(&file.place, &answer.words),
        })
    }

    /// What the words of a command mean that did not find or get the file.
    fn unfit(&self, place: &DatastorePath, words: &str) -> Error {
        let name = self.name(place);
        let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it cannot be read");
        let shown: String = last.chars().filter(|c| !c.is_control()).take(300).collect();
        let failure = |kind: Kind| Error::new(kind, format!("{name}: {shown}")).source(name.clone());
        let has = |what: &str| words.contains(what);
        if has("No such file") {
            return failure(Kind::Source)
                .rule("disk.missing")
                .advice("see whether the VM was moved or deleted: `ls /vmfs/volumes/*/` on the host lists what there is");
        }
        if has("busy") || has("locked") {
            return self.open_elsewhere(place);
        }
        if has("Permission denied") || has("not permitted") {
            return failure(Kind::Auth)
                .advice("log in as `root`: other accounts of an ESXi host may not read its datastores");
        }
        if has("not found") {
            return failure(Kind::Unsupported)
                .advice("see that it is an ESXi host, whose shell has BusyBox's `stat` and `dd`");
        }
        failure(Kind::Source).advice("see what /var/log/vmkernel.log on the host says of it")
    }

    fn open_elsewhere(&self, place: &DatastorePath) -> Error {
        let name = self.name(place);
        Error::new(Kind::Source, format!("{name} is open elsewhere: the host holds a lock on it"))
            .rule("disk.open_elsewhere")
            .source(name)
            .advice("shut the VM down; if it is off, see who else has its disks (a backup, `vmkfstools -D FILE` tells the host)")
    }

    /// It is not what it was.
    pub(super) fn changed(&self, place: &DatastorePath) -> Error {
        let name = self.name(place);
        Error::new(Kind::Source, format!("{name} was written to while it was read"))
            .rule("disk.changed")
            .source(name)
            .advice("make sure that the VM is off and nothing changes its disk, then try again")
    }

    /// Something that is asked and answered in a few words.
    fn asked(&self, script: &str, control: &Control) -> Result<Answer> {
        self.pool.patiently(control, &mut |shell, _| shell.ask(script, &mut [], &mut 0, control))
    }
}

/// The largest blocks that a range begins with and, but for the end of a file, is made of.
fn block_of(at: u64, length: u64) -> u64 {
    let mut block = LARGEST_BLOCK;
    while block > SMALLEST_BLOCK && (!at.is_multiple_of(block) || block > length) {
        block /= 2;
    }
    block
}

fn parsed(place: &DatastorePath, told: &str) -> Option<(File, String)> {
    let mut words = told.splitn(5, ' ');
    let inode = words.next()?.parse().ok()?;
    let size = words.next()?.parse().ok()?;
    let (written, changed) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((File { place: place.clone(), size, inode, written, changed }, words.next()?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_a_host_are_files_of_datastores_and_nothing_else() {
        for path in ["/vmfs/volumes/ds 1/it's/$(x) ü.vmx", "/vmfs/volumes/5f3a-9b/web/web.vmdk"] {
            assert_eq!(on_host(&place(path).unwrap()), path);
        }
        for path in [
            "",
            "/etc/passwd",
            "/vmfs/volumes/ds1",
            "/vmfs/volumes/ds1/",
            "/vmfs/volumes/../etc/passwd",
            "/vmfs/volumes/ds1/../../../etc/passwd",
            "/vmfs/volumes/ds1/a\nb.vmx",
            "/vmfs/volumes//web.vmx",
        ] {
            assert!(place(path).is_err(), "{path}");
        }
    }

    #[test]
    fn ranges_are_asked_for_in_blocks_that_fit_them() {
        assert_eq!(block_of(0, 4 << 20), 1 << 20);
        assert_eq!(block_of(3 << 20, 1 << 20), 1 << 20);
        assert_eq!(block_of(64 << 10, 1 << 20), 64 << 10);
        assert_eq!(block_of(512, 16 << 10), 512);
        assert_eq!(block_of(1000, 100), 512, "the beginning of the block is left away");
        assert_eq!(block_of(0, 300), 512);
    }

    #[test]
    fn what_stat_says_is_read_or_it_is_none() {
        let place = place("/vmfs/volumes/ds1/a").unwrap();
        let (file, kind) = parsed(&place, "12 4096 1700000000 1700000001 regular file").unwrap();
        assert_eq!(
            (file.inode, file.size, file.written, kind.as_str()),
            (12, 4096, 1_700_000_000, "regular file")
        );
        for odd in ["", "12 4096", "a b c d e", "12 -1 0 0 regular file"] {
            assert!(parsed(&place, odd).is_none(), "{odd}");
        }
    }
}
