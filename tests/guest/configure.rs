//! `configuration` of a manifest in the real appliance: everything at once into one guest, read back, and a second time.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper2kvm::guest::appliance::{Appliance, Drive, Settings};
use hyper2kvm::guest::facts::{Facts, FixOptions};
use hyper2kvm::guest::fix::{self, Fix, Guest};
use hyper2kvm::guest::linux;
use hyper2kvm::guest::tree::{Edit, Tree};
use hyper2kvm::model::config::Settings as Configuration;
use hyper2kvm::model::error::{Error, Kind};
use hyper2kvm::model::guest::{Family, GuestIdentity, GuestType, InitSystem};
use hyper2kvm::model::planner::Submission;
use hyper2kvm::model::setup::Setup;

use crate::support::trees;

const OURS: [&str; 8] =
    ["identity", "hostname", "accounts", "services", "first-boot", "cloud-init", "network-files", "selinux"];
const PASSWD: &str = "\
root:x:0:0:root:/root:/bin/bash
old:x:1000:1000:Old Hand:/home/old:/bin/bash
gone:x:1001:1001::/home/gone:/bin/bash
mallory:x:1002:1002::/home/mallory:/bin/bash
";
const SHADOW: &str = "\
root:$6$old$hash:19000:0:99999:7:::
old:$6$c$d:19000:0:99999:7:::
gone:$6$e$f:19000:0:99999:7:::
mallory:*:19000:0:99999:7:::
";
const GROUP: &str = "root:x:0:\nadm:x:4:gone,old\nold:x:1000:\ngone:x:1001:\nmallory:x:1002:\n";
const CONTEXTS: &str = "/etc(/.*)?\tsystem_u:object_r:etc_t:s0\n\
    /home/[^/]+/\\.ssh(/.*)?\tunconfined_u:object_r:ssh_home_t:s0\n\
    /var/lib(/.*)?\tsystem_u:object_r:var_lib_t:s0\n";
const NGINX: &str = "[Unit]\nDescription=nginx\n[Install]\nWantedBy=multi-user.target\nAlias=web.service\n";
const USER_DATA: &str = "#cloud-config\npackage_update: false\n";
const MANIFEST: &str = r##"
manifest_version: "1.0"
disks: [{id: boot, source_format: raw, local_path: boot.raw}]
configuration:
  hostname: {hostname: web, domain: example.com, hosts: {192.0.2.5: db.example.com db}}
  users:
    users:
      - {name: root, password: correct horse}
      - name: ops
        comment: Operators
        groups: [adm]
        password_hash: $6$ops$svn8UoSVapNtMuq1ukKS4t
        ssh_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ops@example.com]
        sudo: ["ALL=(ALL) NOPASSWD: /usr/bin/systemctl"]
    disable_users: [old]
    delete_users: [gone]
  services: {enable: [nginx], disable: [cups.service], mask: [kdump]}
  firstboot:
    scripts:
      - {name: second, content: "echo two\n"}
      - {name: first, content: "#!/bin/sh\necho one\n", order: 1}
  cloud_init:
    dropin_cfg: {preserve_hostname: true}
    nocloud: {user-data: {package_update: false}}
  network:
    network_files: [{name: lan, priority: 20, content: "[Match]\nName=eth1\n"}]
    nm_connections: [{name: dmz, content: "[connection]\nid=dmz\n"}]
"##;

/// A guest of the RHEL family with all that can be configured.
fn disk(dir: &Path) -> PathBuf {
    let tree = trees::tree(
        dir,
        &[
            ("/etc/hostname", "old\n"),
            ("/etc/hosts", "127.0.0.1 localhost\n192.0.2.9 db # before\n"),
            ("/etc/passwd", PASSWD),
            ("/etc/shadow", SHADOW),
            ("/etc/group", GROUP),
            ("/etc/gshadow", "root:::\nadm:*::gone,old\nold:!::\ngone:!::\n"),
            ("/etc/login.defs", "UID_MIN 1000\nPASS_MAX_DAYS\t90\n"),
            ("/etc/sudoers", "root ALL=(ALL) ALL\n#includedir /etc/sudoers.d\n"),
            ("/etc/skel/.bashrc", "# skeleton\n"),
            ("/bin/bash", ""),
            ("/home/mallory/x", ""),
            ("/usr/lib/systemd/system/nginx.service", NGINX),
            (
                "/usr/lib/systemd/system/cups.service",
                "[Install]\nWantedBy=printer.target\nAlso=cups.socket\n",
            ),
            ("/usr/lib/systemd/system/cups.socket", "[Install]\nWantedBy=sockets.target\n"),
            ("/usr/lib/systemd/system/kdump.service", "[Install]\nWantedBy=multi-user.target\n"),
            ("/usr/lib/systemd/systemd-networkd", ""),
            ("/usr/sbin/NetworkManager", ""),
            ("/etc/cloud/cloud.cfg", "users: [default]\n"),
            ("/var/lib/cloud/instance/obj.pkl", "pickle"),
            ("/var/lib/cloud/instance/manual-clean", ""),
            ("/etc/selinux/config", "SELINUX=enforcing\nSELINUXTYPE=targeted\n"),
            ("/etc/selinux/targeted/contexts/files/file_contexts", CONTEXTS),
        ],
    );
    fs::set_permissions(tree.join("etc/shadow"), fs::Permissions::from_mode(0o640)).unwrap();
    for (wants, unit) in [("printer.target", "cups.service"), ("sockets.target", "cups.socket")] {
        let wants = tree.join(format!("etc/systemd/system/{wants}.wants"));
        fs::create_dir_all(&wants).unwrap();
        symlink(format!("/usr/lib/systemd/system/{unit}"), wants.join(unit)).unwrap();
    }
    symlink("/etc", tree.join("home/mallory/.ssh")).unwrap();
    let image = dir.join("disk.raw");
    trees::ext4(&image, 64, &tree, &["-E", "root_owner=0:0"]);
    image
}

/// What a manifest of a person wants set up.
fn setup(manifest: &str) -> Setup {
    let settings = Configuration::defaults(Path::new("/state"), 1).for_a_person();
    let submission = Submission::read(manifest.as_bytes(), "web.yaml", Path::new("/"), &settings).unwrap();
    submission.plans("web", "", &settings).unwrap().remove(0).guest.setup.unwrap()
}

/// Carries out what is wanted; gives back what came of it, and the appliance to look around in.
fn carried_out(appliance: Appliance, setup: Setup) -> (Result<(), Error>, Vec<Edit>, Vec<String>, Appliance) {
    let fixes: Vec<&dyn Fix> = linux::ALL.iter().copied().filter(|fix| OURS.contains(&fix.name())).collect();
    assert_eq!(fixes.len(), OURS.len());
    let options = FixOptions { setup, ..FixOptions::default() };
    let identity = GuestIdentity {
        kind: GuestType::Linux,
        family: Family::Redhat,
        init_system: InitSystem::Systemd,
        ..GuestIdentity::default()
    };
    let mut guest = Guest {
        tree: Tree::new(appliance, options.backup),
        facts: Facts { identity, ..Facts::default() },
        options: &options,
        warnings: Vec::new(),
    };
    let outcome = fix::carry_out(&fixes, &mut guest, &mut |_| ());
    let warnings = guest.warnings;
    let (appliance, edits) = guest.tree.into_appliance();
    (outcome, edits, warnings, appliance)
}

fn told(edits: &[Edit]) -> Vec<String> {
    edits.iter().map(|edit| format!("{} {}", edit.action.name(), edit.path)).collect()
}

#[test]
fn all_that_a_manifest_wants_set_up_is_set_up_once() {
    let dir = tempfile::tempdir().unwrap();
    let image = disk(dir.path());
    let settings = Settings { kvm: false, memory_mb: None, temp: dir.path().to_owned(), log: None };
    let drive = Drive { path: image, format: "raw".to_owned(), readonly: false };
    let appliance = Appliance::launch(&settings, &[drive]).unwrap();
    appliance.mount("", "/dev/sda", "/").unwrap();
    let wanted = setup(MANIFEST);
    let password = wanted.accounts.wanted[0].password_hash.clone().unwrap().0;

    let (outcome, edits, warnings, appliance) = carried_out(appliance, wanted.clone());
    outcome.unwrap();
    assert_eq!(
        told(&edits),
        [
            "changed /etc/hostname",
            "changed /etc/hosts",
            "changed /etc/group",
            "changed /etc/gshadow",
            "changed /etc/passwd",
            "changed /etc/shadow",
            "created /home/ops",
            "created /home/ops/.bashrc",
            "created /home/ops/.ssh",
            "created /home/ops/.ssh/authorized_keys",
            "created /etc/sudoers.d",
            "created /etc/sudoers.d/hyper2kvm-ops",
            "linked /etc/systemd/system/multi-user.target.wants/nginx.service",
            "linked /etc/systemd/system/web.service",
            "removed /etc/systemd/system/printer.target.wants/cups.service",
            "removed /etc/systemd/system/sockets.target.wants/cups.socket",
            "linked /etc/systemd/system/kdump.service",
            "created /var/lib/hyper2kvm/firstboot",
            "created /var/lib/hyper2kvm/firstboot/pending",
            "created /var/lib/hyper2kvm/firstboot/done",
            "created /var/lib/hyper2kvm/firstboot/pending/01-first",
            "created /var/lib/hyper2kvm/firstboot/pending/02-second",
            "created /var/lib/hyper2kvm/firstboot/run",
            "created /etc/systemd/system/hyper2kvm-firstboot.service",
            "linked /etc/systemd/system/multi-user.target.wants/hyper2kvm-firstboot.service",
            "created /etc/cloud/cloud.cfg.d/99-hyper2kvm.cfg",
            "created /etc/cloud/cloud.cfg.d/99zz-hyper2kvm-seed.cfg",
            "created /var/lib/cloud/seed/nocloud/user-data",
            "created /var/lib/cloud/seed/nocloud/meta-data",
            "removed /var/lib/cloud/instance/manual-clean",
            "created /etc/systemd/network/20-lan.network",
            "created /etc/NetworkManager/system-connections/dmz.nmconnection",
        ]
    );
    // Neither reader of network files is enabled here; the guest's own policy labels everything.
    assert_eq!(warnings.len(), 2, "{warnings:?}");

    let text = |path: &str| String::from_utf8(appliance.read(path, u64::MAX).unwrap()).unwrap();
    let access = |path: &str| {
        let stat = appliance.look(path).unwrap().unwrap();
        (stat.uid, stat.gid, stat.mode & 0o7777)
    };
    assert_eq!(text("/etc/hostname"), "web\n");
    assert_eq!(
        text("/etc/hosts"),
        "127.0.0.1 localhost\n127.0.1.1\tweb.example.com web\n192.0.2.5\tdb.example.com db\n"
    );
    let days = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400;
    assert_eq!(
        text("/etc/shadow"),
        format!(
            "root:{password}:{days}:0:99999:7:::\nold:!$6$c$d:19000:0:99999:7::1:\nmallory:*:19000:0:99999:7:::\n\
             ops:$6$ops$svn8UoSVapNtMuq1ukKS4t:{days}:0:90:7:::\n"
        )
    );
    assert_eq!(access("/etc/shadow").2, 0o640);
    // The number of the account that went is free again only for the next one.
    assert!(
        text("/etc/passwd").ends_with("ops:x:1003:1003:Operators:/home/ops:/bin/bash\n"),
        "{}",
        text("/etc/passwd")
    );
    assert_eq!(text("/etc/group"), "root:x:0:\nadm:x:4:old,ops\nold:x:1000:\nmallory:x:1002:\nops:x:1003:\n");
    assert_eq!(access("/home/ops"), (1003, 1003, 0o700));
    assert_eq!(access("/home/ops/.bashrc"), (1003, 1003, 0o644));
    assert_eq!(access("/home/ops/.ssh"), (1003, 1003, 0o700));
    assert_eq!(access("/home/ops/.ssh/authorized_keys"), (1003, 1003, 0o600));
    assert_eq!(text("/home/ops/.ssh/authorized_keys"), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ops@example.com\n");
    assert_eq!(text("/etc/sudoers.d/hyper2kvm-ops"), "ops ALL=(ALL) NOPASSWD: /usr/bin/systemctl\n");
    assert_eq!(access("/etc/sudoers.d/hyper2kvm-ops"), (0, 0, 0o440));
    let leads = |path: &str| appliance.link_target(path).unwrap();
    assert_eq!(leads("/etc/systemd/system/web.service"), "/usr/lib/systemd/system/nginx.service");
    assert_eq!(leads("/etc/systemd/system/kdump.service"), "/dev/null");
    assert_eq!(access("/var/lib/hyper2kvm/firstboot/pending/02-second"), (0, 0, 0o700));
    assert_eq!(text("/var/lib/cloud/seed/nocloud/user-data"), USER_DATA);
    assert!(text("/var/lib/cloud/seed/nocloud/meta-data").contains("local-hostname: web.example.com\n"));
    assert!(text("/etc/cloud/cloud.cfg.d/99zz-hyper2kvm-seed.cfg").contains("ssh_deletekeys: false\n"));
    assert_eq!(access("/etc/NetworkManager/system-connections/dmz.nmconnection"), (0, 0, 0o600));
    assert_eq!(access("/etc/systemd/network/20-lan.network"), (0, 0, 0o644));
    let label = appliance.attribute("/home/ops/.ssh/authorized_keys", "security.selinux").unwrap();
    assert_eq!(String::from_utf8(label).unwrap(), "unconfined_u:object_r:ssh_home_t:s0\0");

    for hidden in ["/etc/shadow", "/etc/gshadow", "/var/lib/cloud/seed/nocloud/user-data"] {
        let diff = fix::diff(&edits, hidden);
        assert!(
            diff.is_none_or(|diff| !diff.contains("$6$") && !diff.contains("package_update")),
            "{hidden}"
        );
    }
    assert!(fix::diff(&edits, "/etc/passwd").unwrap().contains("+ops:x:1003"), "the rest is shown");

    let (outcome, edits, _, appliance) = carried_out(appliance, wanted);
    outcome.unwrap();
    assert_eq!(told(&edits), [""; 0], "a second time changes nothing");

    let refused = |appliance, configuration: &str| {
        let manifest = MANIFEST.split("configuration:").next().unwrap();
        let (outcome, _, _, appliance) =
            carried_out(appliance, setup(&format!("{manifest}configuration: {configuration}\n")));
        (outcome.expect_err(configuration), appliance)
    };
    let (error, appliance) = refused(appliance, "{services: {enable: [ngnix]}}");
    assert_eq!(
        (error.kind(), error.details().place.field.as_deref()),
        (Kind::Guest, Some("configuration.services.enable"))
    );
    assert!(error.to_string().contains("did you mean `nginx.service`?"), "{error}");
    // Whoever owns a directory may not have a key written through a link in it.
    let key = "{users: {users: [{name: mallory, ssh_keys: [ssh-ed25519 AAAAC3Nz x]}]}}";
    let (error, appliance) = refused(appliance, key);
    assert!(error.to_string().contains("/home/mallory/.ssh is a link"), "{error}");
    assert!(appliance.look("/etc/authorized_keys").unwrap().is_none());
    appliance.finish().unwrap();
}
