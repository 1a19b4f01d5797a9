//! Finds and reads the configuration files: which ones, in which order, for whom.
//!
//! What they mean is the model's business. The command line reads them at the start, the service
//! again at every reload.

use std::path::{Path, PathBuf};

use crate::model::config::{DEFAULT_STATE_DIR, Settings};
use crate::model::error::{Error, Kind, Result};

/// Where the settings come from: what the command line and the environment said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigurationSource {
    /// `--config F` or `HYPER2KVM_CONFIG`: then only this file.
    pub file: Option<PathBuf>,
    /// `--state-dir` or `HYPER2KVM_STATE_DIR`: stronger than the files.
    pub state_dir: Option<PathBuf>,
    /// `--socket`: stronger than the files.
    pub socket: Option<PathBuf>,
}

impl ConfigurationSource {
    /// Reads the files and makes the settings of them.
    pub fn load(&self) -> Result<Settings> {
        if let Some(file) = &self.file {
            return Err(Error::new(Kind::Unsupported, "configuration files cannot be read yet")
                .file(file)
                .advice("leave out --config"));
        }
        self.defaults()
    }

    /// The built-in settings, with what the command line and the environment said.
    pub fn defaults(&self) -> Result<Settings> {
        let state_dir = self.state_dir.as_deref().unwrap_or(Path::new(DEFAULT_STATE_DIR));
        let state_dir = std::path::absolute(state_dir)
            .map_err(|error| Error::io(Kind::Manifest, "resolve", state_dir, &error))?;
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        let mut settings = Settings::defaults(&state_dir, cores);
        if let Some(socket) = &self.socket {
            settings.control.socket = Some(socket.clone());
        }
        Ok(settings)
    }
}
