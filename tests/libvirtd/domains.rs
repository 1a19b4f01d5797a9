//! The machines of a libvirt, from the command line.

use std::time::{Duration, Instant};
use std::{fs, thread};

use hyper2kvm::libvirt::domains::{
    self, Collision, Overwrite, Shared, Source, Stand, State, Stopped, Undefine,
};
use hyper2kvm::libvirt::link::{Access, Link};
use hyper2kvm::model::error::Kind;
use serde_json::{Value, json};

use crate::machines::{self, image, link, machine, made_by};
use crate::support::libvirtd::Libvirtd;

#[test]
fn machines_are_listed_with_their_states() {
    let libvirtd = Libvirtd::start();
    libvirtd.sh(
        "virsh -q define /dev/stdin <<'end'
<domain type='qemu'><name>web</name><uuid>564d1c2a-0000-1111-2222-333344445555</uuid><memory unit='MiB'>64</memory>
<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>
end",
    );
    let list = || {
        let output = libvirtd.hyper2kvm().args(["libvirt", "list", "--json"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let web = |state: &str| json!({"domains": [{"name": "web", "uuid": "564d1c2a-0000-1111-2222-333344445555", "state": state}]});
    assert_eq!(list(), web("off"));
    libvirtd.sh("virsh -q start web");
    assert_eq!(list(), web("running"));
    libvirtd.kill();
    libvirtd.await_up();
    assert_eq!(list(), web("running"));
}

#[test]
fn a_machine_is_defined_switched_looked_at_and_taken_away() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let disk = image(&libvirtd, "web.qcow2", "qcow2", 1);
    let nic = "<interface type='user'><mac address='52:54:00:AB:00:01'/><model type='virtio'/></interface>";
    let xml = machine("web", &made_by("night", "web"), &(machines::disk("vda", "qcow2", &disk) + nic));
    let made = domains::define(link, &xml, &Overwrite::Refuse).unwrap();
    assert_eq!((made.name.as_str(), &made.replaced), ("web", &None));

    domains::set_autostart(link, "web", true).unwrap();
    let found = domains::find(link, "web").unwrap().unwrap();
    assert_eq!(found.uuid, made.uuid);
    assert_eq!(found.stand.state, State::Off);
    assert!(found.autostart && found.persistent && !found.has_managed_save);
    assert_eq!(found.provenance.as_ref().map(|made| made.batch_id.as_str()), Some("night"));
    assert_eq!(found.macs, ["52:54:00:ab:00:01"]);
    assert_eq!(found.disks[0].source, Some(Source::Path(disk)));
    assert_eq!(domains::find_by_uuid(link, &made.uuid).unwrap(), Some(found));
    assert_eq!(domains::find(link, "we").unwrap(), None);

    let collision =
        |shared, value: &str| Collision { domain: "web".to_owned(), shared, value: value.to_owned() };
    let mac = ["52:54:00:AB:00:01".to_owned(), "52:54:00:ab:00:02".to_owned()];
    let collisions = |except| {
        domains::collisions(link, Some(&made.uuid.to_uppercase().replace('-', "")), &mac, except).unwrap()
    };
    let both = [collision(Shared::Uuid, &made.uuid), collision(Shared::Mac, "52:54:00:ab:00:01")];
    assert_eq!(collisions(None), both);
    assert_eq!(collisions(Some("web")), []);

    // Each of them twice: what is so already is left so.
    let stand = || {
        let Stand { state, reason } = domains::state(link, "web").unwrap();
        (state, reason)
    };
    for _ in 0..2 {
        domains::start(link, "web").unwrap();
        assert_eq!(stand(), (State::Running, "booted"));
    }
    assert_eq!(collisions(None), both);
    for _ in 0..2 {
        domains::suspend(link, "web").unwrap();
        assert_eq!(stand(), (State::Paused, "asked_for"));
    }
    assert!(domains::start(link, "web").unwrap_err().to_string().contains("paused"));
    for _ in 0..2 {
        domains::resume(link, "web").unwrap();
        assert_eq!(stand(), (State::Running, "resumed"));
    }
    domains::reboot(link, "web").unwrap();
    let counted = domains::statistics(link, "web").unwrap();
    assert_eq!((counted.vcpus, counted.memory.current_kib), (Some(1), Some(64 << 10)));
    assert!(counted.cpu_time_ns > Some(0));
    assert_eq!((counted.disks[0].target.as_str(), counted.disks[0].capacity_bytes), ("vda", Some(16 << 20)));
    assert!(domains::destroy(link, "web").unwrap());
    assert!(!domains::destroy(link, "web").unwrap());
    assert_eq!(stand(), (State::Off, "destroyed"));

    domains::rename(link, "web", "web 2").unwrap();
    assert_eq!(domains::find(link, "web").unwrap(), None);
    assert!(domains::undefine(link, "web 2", &Undefine::ALL_OF_OURS).unwrap());
    assert!(!domains::undefine(link, "web 2", &Undefine::ALL_OF_OURS).unwrap());
    assert_eq!(domains::list(link).unwrap(), []);
}

#[test]
fn a_guest_that_hears_nothing_is_switched_off_after_its_time_only_if_that_is_wanted() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    domains::define(link, &machine("deaf", "", ""), &Overwrite::Refuse).unwrap();
    let shutdown = |force| domains::shutdown(link, "deaf", Duration::from_secs(2), force);
    assert_eq!(shutdown(false).unwrap(), Stopped::WasOff);
    domains::start(link, "deaf").unwrap();
    let error = shutdown(false).unwrap_err();
    assert!(error.to_string().contains("did not shut down within 2 s"), "{error}");
    assert_eq!(domains::state(link, "deaf").unwrap().state, State::Running);
    assert_eq!(shutdown(true).unwrap(), Stopped::Destroyed);
    assert_eq!(domains::state(link, "deaf").unwrap().state, State::Off);
    // One that stands still is not waited for.
    domains::start(link, "deaf").unwrap();
    domains::suspend(link, "deaf").unwrap();
    assert!(shutdown(false).unwrap_err().to_string().contains("hears nothing"));
    assert_eq!(shutdown(true).unwrap(), Stopped::Destroyed);
}

#[test]
fn a_name_that_is_taken_is_given_away_only_by_a_machine_of_ours_that_is_off() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let kept = tempfile::tempdir().unwrap();
    let keep_in = kept.path().join("replaced");
    let overwrite = Overwrite::OursThatIsOff { keep_in: keep_in.clone() };
    let define = |xml: &str, overwrite: &Overwrite| domains::define(link, xml, overwrite);
    let refused = |xml: &str, overwrite: &Overwrite, why: &str| {
        let error = define(xml, overwrite).unwrap_err();
        assert!(error.kind() == Kind::Exists && error.to_string().contains(why), "{error}");
    };

    // One of somebody else.
    let stranger = define(&machine("web", "", ""), &Overwrite::Refuse).unwrap();
    let disk = machines::disk("vda", "qcow2", &image(&libvirtd, "web.qcow2", "qcow2", 1));
    let ours = machine("web", &made_by("one", "web"), &disk);
    for overwrite in [&Overwrite::Refuse, &overwrite] {
        refused(&ours, overwrite, "not made by hyper2kvm");
    }
    assert_eq!(domains::find(link, "web").unwrap().unwrap().uuid, stranger.uuid);
    let error = domains::undefine(link, "web", &Undefine::ALL_OF_OURS).unwrap_err();
    assert!(error.to_string().contains("did not make it"), "{error}");
    assert!(domains::undefine(link, "web", &Undefine::default()).unwrap());

    // The same machine of the same batch.
    let first = define(&ours, &Overwrite::Refuse).unwrap();
    for overwrite in [&Overwrite::Refuse, &overwrite] {
        let again = define(&ours, overwrite).unwrap();
        assert_eq!((&again.uuid, &again.replaced), (&first.uuid, &None));
    }
    // Somebody has changed it since: what it was is kept.
    libvirtd.sh("virsh -q setmaxmem web 80M --config");
    let again = define(&ours, &overwrite).unwrap();
    assert_eq!(again.uuid, first.uuid);
    let text = fs::read_to_string(again.replaced.unwrap().join("domain.xml")).unwrap();
    assert!(text.contains(&(80 << 10).to_string()), "{text}");

    // Another batch's, with snapshots.
    libvirtd.sh("virsh -q snapshot-create-as web before");
    let other = machine(
        "web",
        &format!("<uuid>564d1c2a-0000-1111-2222-333344445555</uuid>{}", made_by("two", "web")),
        &disk,
    );
    refused(&other, &Overwrite::Refuse, "made by batch one");
    let replaced = define(&other, &overwrite).unwrap();
    assert_eq!(replaced.uuid, "564d1c2a-0000-1111-2222-333344445555");
    let place = replaced.replaced.unwrap();
    assert!(fs::read_to_string(place.join("domain.xml")).unwrap().contains(&first.uuid));
    assert!(fs::read_to_string(place.join("snapshot-1.xml")).unwrap().contains("<name>before</name>"));
    assert_eq!(domains::find(link, "web").unwrap().unwrap().snapshots, [""; 0]);

    // What cannot be defined leaves the old one as it was, with its snapshots.
    libvirtd.sh("virsh -q snapshot-create-as web after; virsh -q autostart web");
    let before = domains::find(link, "web").unwrap();
    let broken = machine("web", &made_by("three", "web"), "").replace("64<", "nonsense<");
    let error = define(&broken, &overwrite).unwrap_err();
    assert!(error.kind() == Kind::Manifest && error.to_string().contains("memory"), "{error}");
    assert_eq!(domains::find(link, "web").unwrap(), before);

    // One that is in use.
    let third = machine("web", &made_by("three", "web"), "");
    domains::start(link, "web").unwrap();
    for xml in [&third, &other] {
        refused(xml, &overwrite, "is running");
    }
    domains::suspend(link, "web").unwrap();
    refused(&third, &overwrite, "is paused");
    domains::resume(link, "web").unwrap();
    libvirtd.sh("virsh -q managedsave web");
    refused(&third, &overwrite, "only saved");
    assert!(domains::find(link, "web").unwrap().unwrap().has_managed_save);

    // The UUID of a machine of another name.
    let twin = other.replace("<name>web", "<name>twin");
    refused(&twin, &overwrite, "the machine web has its UUID");

    let error =
        domains::undefine(link, "web", &Undefine { snapshots: true, ..Undefine::default() }).unwrap_err();
    assert!(error.to_string().contains("memory was saved"), "{error}");
    let error =
        domains::undefine(link, "web", &Undefine { managed_save: true, ..Undefine::default() }).unwrap_err();
    assert!(error.to_string().contains("has snapshots"), "{error}");
    assert!(domains::undefine(link, "web", &Undefine::ALL_OF_OURS).unwrap());
    assert_eq!(
        libvirtd.sh("ls /var/lib/libvirt/qemu/save /var/lib/libvirt/qemu/snapshot/web 2>/dev/null || true"),
        "/var/lib/libvirt/qemu/save:\n"
    );
}

#[test]
fn strange_names_go_all_the_way_and_impossible_ones_are_refused() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    let long = "x".repeat(64);
    let wide = "日".repeat(64);
    let written = |name: &str| name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    for name in ["my web 1", "a.b", "-rf", "Müller & <Söhne>", "it's \"quoted\"", "%s%n$(id)", &long, &wide]
    {
        let made =
            domains::define(link, &machine(&written(name), &made_by("b", "v"), ""), &Overwrite::Refuse)
                .unwrap();
        assert_eq!(made.name, name);
        domains::start(link, name).unwrap();
        assert_eq!(domains::find(link, name).unwrap().unwrap().stand.state, State::Running);
        assert!(domains::undefine(link, name, &Undefine::ALL_OF_OURS).unwrap());
    }
    assert_eq!(domains::list(link).unwrap(), []);
    for name in ["", "a\0b", "a/b", "..", "a\nb", &"x".repeat(5000)] {
        let nowhere = Duration::ZERO;
        let trials = [
            domains::find(link, name).map(drop),
            domains::start(link, name),
            domains::shutdown(link, name, nowhere, true).map(drop),
            domains::undefine(link, name, &Undefine::default()).map(drop),
            domains::rename(link, name, "x"),
            domains::statistics(link, name).map(drop),
        ];
        for trial in trials {
            assert_eq!(trial.unwrap_err().kind(), Kind::Manifest, "{name:?}");
        }
    }
    for xml in
        [machine("a/b", "", ""), machine(" ", "", ""), machine("a&#10;b", "", ""), "<domain".to_owned()]
    {
        assert_eq!(
            domains::define(link, &xml, &Overwrite::Refuse).unwrap_err().kind(),
            Kind::Manifest,
            "{xml}"
        );
    }
    let error = domains::start(link, "nobody").unwrap_err();
    assert!(error.to_string().contains("there is no machine nobody"), "{error}");
}

#[test]
fn twenty_at_once_define_one_machine_and_all_see_it_through() {
    let libvirtd = Libvirtd::start();
    let uri = libvirtd.uri();
    let each = |number: usize| {
        let link = Link::open(&uri, Access::Changes).unwrap();
        // All want this name, each for another VM.
        let shared = machine("shared", &made_by("b", &number.to_string()), "");
        let won = match domains::define(&link, &shared, &Overwrite::Refuse) {
            Ok(_) => 1,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Exists, "{error}");
                0
            }
        };
        domains::start(&link, "shared").unwrap();
        // And each has one of its own.
        let name = format!("own {number}");
        domains::define(&link, &machine(&name, &made_by("b", &name), ""), &Overwrite::Refuse).unwrap();
        domains::set_autostart(&link, &name, true).unwrap();
        assert!(domains::list(&link).unwrap().iter().any(|listed| listed.name == name));
        assert!(domains::undefine(&link, &name, &Undefine::ALL_OF_OURS).unwrap());
        domains::undefine(&link, "shared", &Undefine::default()).err();
        won
    };
    let won: usize = thread::scope(|scope| {
        let threads: Vec<_> = (0..20).map(|number| scope.spawn(move || each(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
    let link = link(&libvirtd);
    let left: Vec<String> = domains::list(&link).unwrap().into_iter().map(|listed| listed.name).collect();
    assert_eq!(left, ["shared"]);
}

#[test]
fn a_thousand_machines_are_listed_with_their_states_within_200_ms() {
    let libvirtd = Libvirtd::start();
    let link = &link(&libvirtd);
    for number in 0..1000 {
        domains::define(link, &machine(&format!("m{number:03}"), "", ""), &Overwrite::Refuse).unwrap();
    }
    domains::start(link, "m500").unwrap();
    // Whatever else the host does at the moment does not do it five times.
    let times = (0..5).map(|_| {
        let began = Instant::now();
        let listed = domains::list(link).unwrap();
        let took = began.elapsed();
        let state = |number: usize| (listed[number].name.as_str(), listed[number].state);
        assert_eq!((listed.len(), state(499)), (1000, ("m499", State::Off)));
        assert_eq!(state(500), ("m500", State::Running));
        took
    });
    let best = times.min().unwrap();
    assert!(best <= Duration::from_millis(200), "{best:?}");
}
