//! Finds and reads the configuration files: which ones, in which order, for whom.
//!
//! What they mean is the model's business. The command line reads them at the start, the service
//! again at every reload.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::model::config::{Fragment, Overrides, Settings, resolve};
use crate::model::error::{Error, Kind, Result};

/// The configuration of an installed service.
pub const MAIN_FILE: &str = "/etc/hyper2kvm/hyper2kvm.yaml";

/// Files here (`*.yaml`) are read after it, in name order.
pub const FRAGMENT_DIR: &str = "/etc/hyper2kvm/conf.d";

/// No configuration is larger.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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
        let fragments: Vec<Fragment> =
            self.files()?.into_iter().map(|path| read(&path)).collect::<Result<_>>()?;
        resolve(&fragments, &self.overrides()?, cores())
    }

    /// The built-in settings, with what the command line and the environment said.
    pub fn defaults(&self) -> Result<Settings> {
        resolve(&[], &self.overrides()?, cores())
    }

    /// The files that are read, in order. Only one that was named has to be there.
    pub fn files(&self) -> Result<Vec<PathBuf>> {
        match &self.file {
            Some(file) => Ok(vec![file.clone()]),
            None => files_in(Path::new(MAIN_FILE), Path::new(FRAGMENT_DIR)),
        }
    }

    fn overrides(&self) -> Result<Overrides> {
        let absolute = |path: &Option<PathBuf>| {
            let made = path.as_deref().map(|path| {
                std::path::absolute(path).map_err(|error| Error::io(Kind::Manifest, "resolve", path, &error))
            });
            made.transpose()
        };
        Ok(Overrides { state_dir: absolute(&self.state_dir)?, socket: absolute(&self.socket)? })
    }
}

fn files_in(main: &Path, fragments: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    if main.try_exists().map_err(|error| Error::io(Kind::Manifest, "look at", main, &error))? {
        files.push(main.to_owned());
    }
    let entries = match fs::read_dir(fragments) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        entries => entries,
    };
    let failed = |error: io::Error| Error::io(Kind::Manifest, "list", fragments, &error);
    let mut found = Vec::new();
    for entry in entries.map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|suffix| suffix == "yaml") {
            found.push(path);
        }
    }
    found.sort();
    files.extend(found);
    Ok(files)
}

fn read(path: &Path) -> Result<Fragment> {
    let failed = |error: io::Error| {
        Error::io(Kind::Manifest, "read the configuration", path, &error)
            .advice("check its owner and mode, or name another file with --config")
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(Error::new(Kind::Manifest, format!("{} is no configuration file", path.display()))
            .advice("it has to be a plain file of at most 1 MiB"));
    }
    Ok(Fragment { path: path.to_owned(), bytes: fs::read(path).map_err(failed)? })
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_are_read_after_the_main_file_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("hyper2kvm.yaml");
        let conf_d = dir.path().join("conf.d");
        assert_eq!(files_in(&main, &conf_d).unwrap(), Vec::<PathBuf>::new());
        fs::create_dir(&conf_d).unwrap();
        for name in ["20-b.yaml", "10-a.yaml", ".hidden.yaml", "30-c.yaml.bak"] {
            fs::write(conf_d.join(name), "").unwrap();
        }
        fs::write(&main, "").unwrap();
        assert_eq!(
            files_in(&main, &conf_d).unwrap(),
            [main, conf_d.join("10-a.yaml"), conf_d.join("20-b.yaml")]
        );
    }

    #[test]
    fn the_command_line_is_stronger_than_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        fs::write(&file, "state_dir: /from/file\nmax_concurrent_jobs: 7\n").unwrap();
        let source = ConfigurationSource { file: Some(file), ..ConfigurationSource::default() };
        let settings = source.load().unwrap();
        assert_eq!(
            (settings.state_dir.as_path(), settings.max_concurrent_jobs),
            (Path::new("/from/file"), 7)
        );
        let stronger = ConfigurationSource { state_dir: Some("/said".into()), ..source };
        assert_eq!(stronger.load().unwrap().state_dir, Path::new("/said"));
    }

    #[test]
    fn a_named_file_has_to_be_there() {
        let source =
            ConfigurationSource { file: Some("/no/such.yaml".into()), ..ConfigurationSource::default() };
        assert!(source.load().unwrap_err().to_string().contains("/no/such.yaml"));
        assert!(source.defaults().is_ok());
    }
}
