//! The installed service under a real systemd: its status line, its journal, its watchdog, its sandbox.

use std::time::{Duration, Instant};

use super::installed::Installed;

#[test]
fn a_dropped_manifest_becomes_a_result_and_systemd_is_told_of_it() {
    let installed = Installed::new();
    let machine = &installed.machine;
    assert_ne!(installed.property("StatusText"), "", "no status line");
    installed.limit_reading(Some("4MiB/s"));
    installed.drop_disk("web01", 100, "zlib");
    installed.wait_copying("web01");
    machine.wait_sh("systemctl status hyper2kvm --no-pager | grep -E 'Status: \"1 run'");
    installed.limit_reading(None);
    installed.wait_settled("processed", "web01");
    installed.assert_result("web01");

    // What happened to it is found by its fields.
    for filter in ["H2K_BATCH=web01", "H2K_VM=web01", "H2K_JOB=1"] {
        assert_ne!(
            machine.sh(&format!("journalctl --no-pager -q -o cat -u hyper2kvm {filter}")),
            "",
            "{filter}"
        );
    }
    machine.sh("journalctl --no-pager -q -o cat -u hyper2kvm -F H2K_STAGE | grep -qx convert");

    // Whoever may submit may not look into other people's results through the socket, but members of the group may.
    assert!(machine.sh("runuser -u anna -- hyper2kvm list --json").contains("web01"));
    assert!(
        !machine.try_sh("runuser -u anna -- hyper2kvm pause").status.success(),
        "anna is no administrator"
    );
    assert!(!machine.try_sh("runuser -u nobody -- hyper2kvm list").status.success(), "nobody may read");
}

#[test]
fn a_service_that_hangs_is_killed_by_the_watchdog_and_its_job_goes_on() {
    let installed = Installed::new();
    let machine = &installed.machine;
    let old = installed.property("MainPID");
    installed.limit_reading(Some("20MiB/s"));
    installed.drop_disk("web02", 100, "zlib");
    installed.wait_copying("web02");
    // The worker too, so that it cannot end in the meantime.
    machine.sh("systemctl kill --signal=STOP hyper2kvm.service");
    machine.wait_sh_for(
        Duration::from_secs(120),
        &format!(
            "pid=$(systemctl show --value -p MainPID hyper2kvm); [ \"$pid\" != 0 ] && [ \"$pid\" != {old} ]"
        ),
    );
    assert!(installed.journal().contains("Watchdog timeout"), "{}", installed.journal());
    installed.wait_settled("processed", "web02");
    installed.assert_result("web02");
    assert_eq!(machine.sh("ls -A /var/lib/hyper2kvm/output/web02/web02 | grep -c partial || true"), "0");
    assert_eq!(installed.property("NRestarts"), "1");
}

#[test]
fn stopping_in_the_middle_of_a_copy_is_quick_and_the_job_goes_on_later() {
    let installed = Installed::new();
    let machine = &installed.machine;
    installed.limit_reading(Some("4MiB/s"));
    installed.drop_disk("web03", 200, "zlib");
    installed.wait_copying("web03");
    let asked = Instant::now();
    machine.sh("systemctl stop hyper2kvm");
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(30), "stopping took {took:?}\n{}", installed.journal());
    assert_eq!(machine.sh("pgrep -u hyper2kvm || true"), "");
    assert_eq!(installed.property("Result"), "success");
    machine.sh("systemctl start hyper2kvm");
    installed.limit_reading(None);
    installed.wait_settled("processed", "web03");
    installed.assert_result("web03");
    assert_eq!(
        installed.vm("web03")["attempt"],
        1,
        "being stopped is no failed attempt: {}",
        installed.vm("web03")
    );
}

#[test]
fn a_reload_with_a_bad_file_keeps_the_old_settings_and_says_so() {
    let installed = Installed::new();
    let machine = &installed.machine;
    let old = installed.property("MainPID");
    installed.configure("20-bad", "max_concurrent_jobs: many\n");
    machine.sh("systemctl reload hyper2kvm || true");
    machine.wait_sh("journalctl --no-pager -o cat -u hyper2kvm | grep 20-bad.yaml");
    assert_eq!(machine.sh("systemctl is-active hyper2kvm"), "active");
    assert_eq!(installed.property("MainPID"), old);
    installed.drop_disk("web04", 4, "false");
    installed.wait_settled("processed", "web04");

    // At a start it is fatal, with the exit code of invalid input, and systemd does not try again and again.
    machine.sh("systemctl restart hyper2kvm || true");
    machine.wait_sh("systemctl is-failed hyper2kvm");
    assert_eq!(installed.property("ExecMainStatus"), "2");
    assert_eq!(installed.property("NRestarts"), "0");
    machine.sh("rm /etc/hyper2kvm/conf.d/20-bad.yaml && systemctl start hyper2kvm");
}

#[test]
fn workers_confine_themselves_inside_the_unit_and_do_not_work_where_they_cannot() {
    let installed = Installed::new();
    let machine = &installed.machine;
    installed.drop_disk("web05", 4, "false");
    installed.wait_settled("processed", "web05");
    let log = machine.sh("cat /var/lib/hyper2kvm/logs/web05/web05.1.log");
    assert!(log.contains("sandbox closed"), "{log}");

    machine.sh(
        "mkdir -p /etc/systemd/system/hyper2kvm.service.d && \
         printf '[Service]\\nSystemCallFilter=~landlock_create_ruleset\\n' >/etc/systemd/system/hyper2kvm.service.d/no-landlock.conf && \
         systemctl daemon-reload && systemctl restart hyper2kvm",
    );
    installed.drop_disk("web06", 4, "false");
    machine.wait_sh("journalctl --no-pager -o cat -u hyper2kvm | grep -i 'sandbox cannot be applied'");
    machine.sh("! test -e /var/lib/hyper2kvm/output/web06/web06/boot.qcow2");
}

#[test]
fn configured_paths_open_the_sandbox_of_the_unit() {
    let installed = Installed::new();
    let machine = &installed.machine;
    machine.sh("mkdir -p /data/out && chown hyper2kvm /data/out");
    installed.configure("30-paths", "output_dir: /data/out\npaths: {read: [/srv], write: [/data/out]}\n");
    machine.sh("systemctl daemon-reload && systemctl restart hyper2kvm");
    let paths = installed.property("ReadWritePaths");
    assert!(paths.contains("/data/out"), "{paths}");
    assert!(installed.property("ReadOnlyPaths").contains("/srv"));
    installed.drop_disk("web07", 4, "false");
    installed.wait_settled("processed", "web07");
    machine.sh("test -s /data/out/web07/web07/boot.qcow2");
}
