//! Options that several commands share: where the configuration, the state and the socket are.

use std::path::PathBuf;

use super::ui::GLOBAL;
use crate::service::configuration::ConfigurationSource;

/// Where the configuration and the state are. They may stand before or after the subcommand.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StateArgs {
    /// Read only this configuration file
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "FILE", env = "HYPER2KVM_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// State directory [default: /var/lib/hyper2kvm]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "DIR", env = "HYPER2KVM_STATE_DIR", hide_env_values = true)]
    pub state_dir: Option<PathBuf>,
    /// Control socket [default: that of the state directory]
    #[arg(long, global = true, help_heading = GLOBAL, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl StateArgs {
    /// As the service understands it.
    #[must_use]
    pub fn source(&self) -> ConfigurationSource {
        ConfigurationSource {
            file: self.config.clone(),
            state_dir: self.state_dir.clone(),
            socket: self.socket.clone(),
        }
    }
}
