//! What a reload changes, and what of it has to wait for a restart.

use super::Settings;

/// Keys whose values differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force at once.
    pub applied: Vec<&'static str>,
    /// In force after a restart.
    pub restart: Vec<&'static str>,
}

impl Changes {
    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.applied.is_empty() && self.restart.is_empty()
    }
}

/// What differs between the settings in force and new ones.
#[must_use]
pub fn changes(old: &Settings, new: &Settings) -> Changes {
    let mut changes = Changes::default();
    // Taken apart, so that a new setting cannot be forgotten here.
    let Settings {
        state_dir,
        output_dir,
        work_dir,
        profiles_dir,
        max_concurrent_jobs,
        stall_timeout_s,
        takeover_stale_s,
        verbose,
        enable_recovery,
        intake,
        paths,
        credentials,
        sources,
        hooks,
        preflight,
        retry,
        retention,
        limits,
        libvirt,
        vc_connection,
        vddk,
        network_monitor,
        notifications,
        control,
        metrics,
        log,
    } = old;
    for (key, differs) in [
        ("output_dir", *output_dir != new.output_dir),
        ("profiles_dir", *profiles_dir != new.profiles_dir),
        ("max_concurrent_jobs", *max_concurrent_jobs != new.max_concurrent_jobs),
        ("stall_timeout_s", *stall_timeout_s != new.stall_timeout_s),
        ("verbose", *verbose != new.verbose),
        ("enable_recovery", *enable_recovery != new.enable_recovery),
        ("paths", *paths != new.paths),
        ("credentials", *credentials != new.credentials),
        ("sources", *sources != new.sources),
        ("hooks", *hooks != new.hooks),
        ("preflight", *preflight != new.preflight),
        ("retry", *retry != new.retry),
        ("retention", *retention != new.retention),
        ("limits", *limits != new.limits),
        ("vc_connection_*", *vc_connection != new.vc_connection),
        ("vddk", *vddk != new.vddk),
        ("libvirt", *libvirt != new.libvirt),
        ("network_monitor", *network_monitor != new.network_monitor),
        ("notifications", *notifications != new.notifications),
        ("metrics", *metrics != new.metrics),
    ] {
        if differs {
            changes.applied.push(key);
        }
    }
    for (key, differs) in [
        ("state_dir", *state_dir != new.state_dir),
        ("work_dir", *work_dir != new.work_dir),
        ("takeover_stale_s", *takeover_stale_s != new.takeover_stale_s),
        ("intake", *intake != new.intake),
        ("control", *control != new.control),
        ("log", *log != new.log),
    ] {
        if differs {
            changes.restart.push(key);
        }
    }
    changes
}

impl Settings {
    /// What is in force after a reload: the new settings, but for what needs a restart.
    #[must_use]
    pub fn reloaded(&self, new: &Settings) -> Settings {
        Settings {
            state_dir: self.state_dir.clone(),
            work_dir: self.work_dir.clone(),
            takeover_stale_s: self.takeover_stale_s,
            intake: self.intake.clone(),
            control: self.control.clone(),
            log: self.log.clone(),
            ..new.clone()
        }
    }
}
