//! A libvirt of another host: through ssh and by certificates, and what is said where the host is not the one it should be.
//!
//! Server and client are inside the same namespaces, with a network between them that is not the socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::libvirtd::Libvirtd;

/// Starts an SSH server beside libvirtd, whose host key and client key lie in the directory; what ssh reads of this machine is replaced inside.
const SSHD: &str = r#"
mkdir -p /run/sshd
cd "$AT"
ssh-keygen -q -t ed25519 -N '' -f host
ssh-keygen -q -t ed25519 -N '' -f key
echo "[localhost]:2222 $(cut -d' ' -f1,2 host.pub)" >known_hosts
cat >sshd_config <<END
Port 2222
ListenAddress 127.0.0.1
HostKey $AT/host
AuthorizedKeysFile $AT/key.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
PermitRootLogin prohibit-password
PidFile none
END
cat >ssh_config <<END
UserKnownHostsFile $AT/known_hosts
GlobalKnownHostsFile none
StrictHostKeyChecking yes
BatchMode yes
END
mount --bind ssh_config /etc/ssh/ssh_config
/usr/sbin/sshd -f "$AT/sshd_config" -E "$AT/sshd.log"
"#;

/// An authority, and certificates of it for `localhost` as a server and as a client.
const CERTIFICATES: &str = r#"
cd "$AT"
key='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $key -keyout cakey.pem -out cacert.pem -days 2 -subj /CN=authority 2>/dev/null
for who in server client; do
  openssl req $key -keyout ${who}key.pem -out $who.csr -subj /CN=localhost 2>/dev/null
  printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\n' >extensions
  openssl x509 -req -in $who.csr -CA cacert.pem -CAkey cakey.pem -CAcreateserial -days 2 -extfile extensions \
    -out ${who}cert.pem 2>/dev/null
done
"#;

/// A directory below the images, with what a script has made in it.
fn made(libvirtd: &Libvirtd, name: &str, script: &str) -> PathBuf {
    let at = libvirtd.images().join(name);
    fs::create_dir(&at).unwrap();
    libvirtd.sh(&format!("AT='{}'\n{script}", at.display()));
    at
}

fn list(libvirtd: &Libvirtd, uri: &str) -> Output {
    libvirtd.hyper2kvm().args(["libvirt", "list", "--json", "--uri", uri]).output().unwrap()
}

/// The names of the machines there.
fn names(output: &Output) -> Vec<String> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let domains = told["domains"].as_array().unwrap();
    domains.iter().map(|domain| domain["name"].as_str().unwrap().to_owned()).collect()
}

/// The error of a call that failed because one of the hosts does not believe the other: what it is, and what to do.
fn refusal(output: &Output) -> (String, String) {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // What carries a connection has words of its own before that.
    let last = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned();
    let told: Value = serde_json::from_str(&last).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(told["kind"], "auth", "{told}");
    let text = |key: &str| told[key].as_str().unwrap_or_default().to_lowercase();
    (text("error"), text("suggestion"))
}

fn define(libvirtd: &Libvirtd, at: &Path) {
    let xml = "<domain type='qemu'><name>far</name><memory>65536</memory><os><type>hvm</type></os></domain>";
    let file = at.join("far.xml");
    fs::write(&file, xml).unwrap();
    libvirtd.sh(&format!("virsh -q define '{}'", file.display()));
}

#[test]
fn the_machines_of_another_host_are_reached_through_ssh_if_its_key_is_known() {
    let libvirtd = Libvirtd::start();
    let at = made(&libvirtd, "ssh", SSHD);
    define(&libvirtd, &at);
    let uri = format!("qemu+ssh://root@localhost:2222/system?keyfile={}", at.join("key").display());
    assert_eq!(names(&list(&libvirtd, &uri)), ["far"]);

    let known = fs::read(at.join("known_hosts")).unwrap();
    fs::write(at.join("known_hosts"), "").unwrap();
    let (cause, advice) = refusal(&list(&libvirtd, &uri));
    assert!(cause.contains("host key") && advice.contains("known_hosts"), "{cause}: {advice}");

    fs::write(at.join("known_hosts"), known).unwrap();
    fs::write(at.join("key.pub"), "").unwrap();
    let (cause, advice) = refusal(&list(&libvirtd, &uri));
    assert!(cause.contains("permission denied") && advice.contains("by a key"), "{cause}: {advice}");
}

#[test]
fn the_machines_of_another_host_are_reached_by_certificates_of_an_authority_that_is_trusted() {
    let libvirtd = Libvirtd::start();
    let at = made(&libvirtd, "pki", CERTIFICATES);
    let other = made(&libvirtd, "other", CERTIFICATES);
    define(&libvirtd, &at);
    let dir = at.display();
    libvirtd.start_again(
        "--listen",
        &format!(
            "listen_tls = 1\nlisten_addr = \"127.0.0.1\"\nkey_file = \"{dir}/serverkey.pem\"\n\
             cert_file = \"{dir}/servercert.pem\"\nca_file = \"{dir}/cacert.pem\"\n"
        ),
    );
    let uri = |pki: &Path| format!("qemu+tls://localhost/system?pkipath={}", pki.display());
    assert_eq!(names(&list(&libvirtd, &uri(&at))), ["far"]);

    let (cause, advice) = refusal(&list(&libvirtd, &uri(&other)));
    assert!(cause.contains("certificate") && advice.contains("cacert.pem"), "{cause}: {advice}");
}
