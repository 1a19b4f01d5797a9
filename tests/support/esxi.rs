//! An ESXi host of a test's own, as far as SSH shows it: OpenSSH's server, and behind it BusyBox alone with datastores below /vmfs/volumes.
//!
//! The server runs in namespaces of its own and puts whoever logs in into a directory in which nothing else is. All of it ends with its
//! [`Esxi`].

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::loopback::own_address;
use super::rare_vmdks;
use super::wait::within;

/// What an ESXi host has, and no more than that.
const APPLETS: [&str; 8] = ["sh", "dd", "stat", "ls", "cat", "test", "[", "echo"];
const UP_WITHIN: Duration = Duration::from_secs(30);
const SECTOR: usize = 512;

/// Puts what is seen behind the server where nobody else may write on the way to it, and becomes the server.
const INSIDE: &str = r#"
set -eu
mount -t tmpfs -o mode=755 h2k-run /run
mkdir -p /run/sshd /run/esxi
mount --bind "$1/root" /run/esxi
mount --bind /dev/null /run/esxi/dev/null
exec /usr/sbin/sshd -D -f "$1/sshd_config" -E "$1/sshd.log"
"#;

/// A host with one datastore `ds1`.
#[derive(Debug)]
pub struct Esxi {
    at: TempDir,
    address: String,
    port: u16,
    server: Option<Child>,
}

impl Esxi {
    /// One that is reached at an address that nobody else has, also while its server is away.
    pub fn start() -> Esxi {
        Esxi::at(&own_address().to_string(), 2222)
    }

    /// One at this address.
    pub fn at(address: &str, port: u16) -> Esxi {
        let at = tempfile::Builder::new().prefix("h2k-esx-").tempdir().unwrap();
        // Whoever is put below it has to get through.
        fs::set_permissions(at.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let root = at.path().join("root");
        for directory in ["bin", "dev", "vmfs/volumes/5f3a-ds1"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join("dev/null"), "").unwrap();
        // As on a host: the name is a link to what the datastore is called by its number.
        symlink("5f3a-ds1", root.join("vmfs/volumes/ds1")).unwrap();
        install_busybox(&root);
        let mut esxi = Esxi { at, address: address.to_owned(), port, server: None };
        for key in ["host", "key", "stranger"] {
            esxi.make_key(key);
        }
        let shown = esxi.at.path().display();
        fs::write(
            esxi.at.path().join("sshd_config"),
            format!(
                "Port {port}\nListenAddress {address}\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/key.pub\nChrootDirectory /run/esxi\n\
                 PasswordAuthentication no\nKbdInteractiveAuthentication no\nStrictModes no\nPermitRootLogin prohibit-password\nUsePAM no\n\
                 UseDNS no\nMaxStartups 100\nPidFile none\nSetEnv PATH=/bin\n"
            ),
        )
        .unwrap();
        esxi.start_again();
        esxi
    }

    /// From now on files come a byte a second.
    pub fn drips(&self) {
        let dd = self.at.path().join("root/bin/dd");
        fs::remove_file(&dd).unwrap();
        fs::write(&dd, "#!/bin/sh\nwhile echo -n x; do busybox sleep 1; done\n").unwrap();
        fs::set_permissions(&dd, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The server and everybody who is logged in are gone at once.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// The server comes back where it was.
    pub fn start_again(&mut self) {
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--propagation",
                "private",
                "sh",
                "-c",
                INSIDE,
                "sh",
            ])
            .arg(self.at.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.at.path().join("unshare.log")).unwrap())
            .process_group(0);
        self.server = Some(command.spawn().unwrap());
        let address = self.address();
        let answers = || TcpStream::connect(&address).ok();
        let log = |name: &str| fs::read_to_string(self.at.path().join(name)).unwrap_or_default();
        assert!(within(UP_WITHIN, answers).is_some(), "sshd: {}{}", log("sshd.log"), log("unshare.log"));
    }

    /// Its address alone.
    pub fn host(&self) -> &str {
        &self.address
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory behind `ds1`.
    pub fn datastore(&self) -> PathBuf {
        self.at.path().join("root/vmfs/volumes/5f3a-ds1")
    }

    /// A stored credential for this host, whose key is known at these ports; `key`: `key`, or `stranger`, whom nobody knows.
    pub fn credential(&self, ports: &[u16], key: &str) -> serde_json::Value {
        self.credential_at(&self.address, ports, key)
    }

    /// The same for this host behind a relay.
    pub fn credential_behind(&self, relay: SocketAddr, key: &str) -> serde_json::Value {
        self.credential_at(&relay.ip().to_string(), &[relay.port()], key)
    }

    fn credential_at(&self, address: &str, ports: &[u16], key: &str) -> serde_json::Value {
        let public = fs::read_to_string(self.at.path().join("host.pub")).unwrap();
        let words: Vec<&str> = public.split_whitespace().take(2).collect();
        let lines: String = ports
            .iter()
            .map(|port| match port {
                22 => format!("{address} {}\n", words.join(" ")),
                port => format!("[{address}]:{port} {}\n", words.join(" ")),
            })
            .collect();
        let known_hosts = self.at.path().join("known_hosts");
        fs::write(&known_hosts, lines).unwrap();
        json!({ "host": address, "identity": self.at.path().join(key), "known_hosts": known_hosts })
    }

    /// From the next start on it has another key, which nobody was told.
    pub fn new_host_key(&self) {
        fs::remove_file(self.at.path().join("host")).unwrap();
        self.make_key("host");
    }

    fn make_key(&self, name: &str) {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(self.at.path().join(name));
        assert!(command.stdin(Stdio::null()).status().unwrap().success());
    }

    /// A machine with one disk of these bytes; where its VMX is, as the host names it.
    pub fn machine(&self, name: &str, content: &Path) -> String {
        let directory = self.datastore().join(name);
        fs::create_dir(&directory).unwrap();
        let bytes = fs::metadata(content).unwrap().len();
        fs::copy(content, directory.join(format!("{name}-flat.vmdk"))).unwrap();
        let descriptor =
            descriptor("vmfs", &format!("RW {} VMFS \"{name}-flat.vmdk\"", bytes / SECTOR as u64), None);
        fs::write(directory.join(format!("{name}.vmdk")), descriptor).unwrap();
        let vmx = format!(
            "displayName = \"{name}\"\nnumvcpus = \"2\"\nmemsize = \"1024\"\nguestOS = \"debian11-64\"\nscsi0.present = \"TRUE\"\n\
             scsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"{name}.vmdk\"\n"
        );
        fs::write(directory.join(format!("{name}.vmx")), vmx).unwrap();
        format!("/vmfs/volumes/ds1/{name}/{name}.vmx")
    }

    /// Gives a machine two snapshots, the lower one of small grains and the upper one of large ones, and goes on writing in each. What its disk
    /// then holds is put into the file.
    pub fn snapshots(&self, name: &str, content: &Path) {
        let directory = self.datastore().join(name);
        let mut disk = fs::read(content).unwrap();
        let size = disk.len();
        let (mut lower, mut upper) = (vec![0; size], vec![0; size]);
        for sector in (0..size / SECTOR).filter(|sector| sector % 7 == 3 && sector % 4096 < 1500) {
            lower[sector * SECTOR..][..SECTOR].fill(0x11);
            disk[sector * SECTOR..][..SECTOR].fill(0x11);
        }
        for grain in (0..size / 4096).filter(|grain| grain % 5 == 1) {
            upper[grain * 4096..][..4096].fill(0x22);
            disk[grain * 4096..][..4096].fill(0x22);
        }
        // Of what the upper one has nothing in, it says in turn that it is below, given back, or zeros.
        for grain in (0..size / 4096).filter(|grain| grain % 5 != 1 && grain % 4096 % 3 != 0) {
            disk[grain * 4096..][..4096].fill(0);
        }
        for (number, bytes, of) in
            [(1, lower, format!("{name}.vmdk")), (2, upper, format!("{name}-000001.vmdk"))]
        {
            let raw = directory.join(format!("{name}-00000{number}.raw"));
            fs::write(&raw, bytes).unwrap();
            let made = if number == 1 { rare_vmdks::vmfs_sparse(&raw) } else { rare_vmdks::se_sparse(&raw) };
            fs::remove_file(raw).unwrap();
            let text = fs::read_to_string(&made).unwrap();
            let text = text
                .replace("parentCID=ffffffff", &format!("parentCID=fffffffe\nparentFileNameHint=\"{of}\""));
            fs::remove_file(made).unwrap();
            fs::write(directory.join(format!("{name}-00000{number}.vmdk")), text).unwrap();
        }
        let vmx = directory.join(format!("{name}.vmx"));
        let text = fs::read_to_string(&vmx).unwrap();
        fs::write(vmx, text.replace(&format!("\"{name}.vmdk\""), &format!("\"{name}-000002.vmdk\"")))
            .unwrap();
        fs::write(content, disk).unwrap();
    }
}

impl Drop for Esxi {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A descriptor with these lines, and what it stands on.
pub fn descriptor(kind: &str, extents: &str, parent: Option<&str>) -> String {
    let (id, hint) = match parent {
        None => ("ffffffff", String::new()),
        Some(name) => ("fffffffe", format!("parentFileNameHint=\"{name}\"\n")),
    };
    format!(
        "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID={id}\n{hint}createType=\"{kind}\"\n# Extent description\n{extents}\n"
    )
}

/// BusyBox with what it needs to run, under the names of what a host has; the account's shell is it, too.
fn install_busybox(root: &Path) {
    let busybox =
        ["/usr/bin/busybox", "/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.exists());
    let busybox = busybox.expect("busybox is installed by set-up");
    fs::copy(&busybox, root.join("bin/busybox")).unwrap();
    let needed = Command::new("ldd").arg(&busybox).output().unwrap();
    for word in
        String::from_utf8_lossy(&needed.stdout).split_whitespace().filter(|word| word.starts_with('/'))
    {
        let into = root.join(word.trim_start_matches('/'));
        fs::create_dir_all(into.parent().unwrap()).unwrap();
        fs::copy(word, into).unwrap();
    }
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    // sshd starts what this machine says is the shell of whoever logs in.
    for shell in ["bash", "dash"] {
        fs::write(root.join("bin").join(shell), "#!/bin/sh\nexec /bin/sh \"$@\"\n").unwrap();
        fs::set_permissions(root.join("bin").join(shell), fs::Permissions::from_mode(0o755)).unwrap();
    }
}
