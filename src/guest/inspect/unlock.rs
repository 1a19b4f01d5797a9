//! Opening encrypted volumes with the keys that were given, and what lies inside them.
//!
//! A key that names its volume is tried before one that names none, because a wrong one costs seconds by design. What is not here: where
//! keys come from.

use super::storage::{Storage, scan};
use crate::guest::appliance::{Appliance, Failure};
use crate::guest::facts::Volume;
use crate::guest::tree::shown;
use crate::guest::work::Key;
use crate::model::error::{Error, Kind, Result};

pub(super) const LUKS: &str = "crypto_LUKS";
const LVM: &str = "LVM2_member";
/// Encryption below a volume group below encryption: deeper is nothing that anybody runs.
const MOST_LAYERS: usize = 3;

/// What the appliance says of a try.
type Answered = std::result::Result<(), Failure>;

/// Opens whatever the keys open, activates what then appears, and says what there is now.
pub(super) fn unlock(appliance: &Appliance, keys: &[Key], mut storage: Storage) -> Result<Storage> {
    for _ in 0..MOST_LAYERS {
        let mut opened = false;
        for volume in locked(&storage) {
            opened |= open(appliance, keys, volume)?;
        }
        let hidden = closed(&storage).next().is_some();
        if !opened && !hidden {
            return Ok(storage);
        }
        if let Err(why) = activate(appliance, &mut storage, opened) {
            tracing::warn!(why = shown(&why), "volume groups of the guest could not be activated");
        }
        let before = storage;
        storage = scan(appliance)?;
        if !opened && storage == before {
            return Ok(storage);
        }
    }
    Ok(storage)
}

fn activate(appliance: &Appliance, storage: &mut Storage, opened: bool) -> std::result::Result<(), String> {
    if opened {
        *storage = scan(appliance).map_err(|error| error.to_string())?;
    }
    match closed(storage).next() {
        Some(_) => appliance.activate_volumes(),
        None => Ok(()),
    }
}

/// Whether one of the keys opens it. One that names this volume has to.
fn open(appliance: &Appliance, keys: &[Key], volume: &Volume) -> Result<bool> {
    let name = mapped_name(volume);
    let mut why = None;
    for key in meant_for(keys, volume) {
        let tried = patiently(|| appliance.unlock(&volume.device, &key.passphrase, &name));
        match tried {
            Ok(()) => return Ok(true),
            Err(said) if is_late(&said) => return Err(late(volume, &said)),
            Err(said) if names(key, volume) => why = Some(said),
            Err(_) => {}
        }
    }
    let Some(why) = why else { return Ok(false) };
    Err(Error::new(
        Kind::Guest,
        format!("the key of the encrypted volume {} does not open it: {}", called(volume), shown(&why)),
    )
    .field("luks")
    .advice("give its passphrase (a line end after it counts unless it is the last of the file)"))
}

/// Tries once more what was only too slow: its ciphers are loaded by then.
fn patiently(unlock: impl Fn() -> Answered) -> Answered {
    match unlock() {
        Err(said) if is_late(&said) => {
            tracing::warn!(why = shown(&said), "an encrypted volume is opened once more");
            unlock()
        }
        answered => answered,
    }
}

/// The appliance's kernel waits a minute for a cipher to be loaded and to test itself. Emulated on a host that has much else to do, that is not
/// always enough; it says nothing of the key.
fn is_late(said: &str) -> bool {
    said.to_ascii_lowercase().contains("timed out")
}

fn late(volume: &Volume, said: &str) -> Error {
    Error::new(
        Kind::Guest,
        format!("the encrypted volume {} could not be opened in time: {}", called(volume), shown(said)),
    )
    .advice("this machine has too much else to do; try again, or run fewer jobs at once (`workers`)")
    .transient()
}

/// Keys that may open it: first those that name it, then those that name nothing.
fn meant_for<'k>(keys: &'k [Key], volume: &Volume) -> Vec<&'k Key> {
    let named = keys.iter().filter(|key| names(key, volume));
    let free = keys.iter().filter(|key| key.uuid.is_none() && key.device.is_none());
    named.chain(free).collect()
}

fn names(key: &Key, volume: &Volume) -> bool {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    key.uuid.as_deref().zip(volume.uuid.as_deref()).is_some_and(|(key, uuid)| same(key, uuid))
        || key.device.as_deref().is_some_and(|device| device == volume.device)
}

/// What its inside is called in the appliance: nothing of a guest's choosing.
fn mapped_name(volume: &Volume) -> String {
    let letters = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).take(64).collect::<String>();
    format!("luks-{}", letters(volume.uuid.as_deref().unwrap_or(&volume.device)))
}

/// `/dev/sda5 (UUID …)`
pub(super) fn called(volume: &Volume) -> String {
    match &volume.uuid {
        Some(uuid) => format!("{} (UUID {})", shown(&volume.device), shown(uuid)),
        None => shown(&volume.device),
    }
}

/// Volumes that no key has opened.
pub(super) fn locked(storage: &Storage) -> impl Iterator<Item = &Volume> {
    storage.holding(LUKS).filter(|volume| !storage.is_used(&volume.device))
}

/// Parts of volume groups of which nothing is open.
pub(super) fn closed(storage: &Storage) -> impl Iterator<Item = &Volume> {
    storage.holding(LVM).filter(|volume| !storage.is_used(&volume.device))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(uuid: Option<&str>, device: Option<&str>, passphrase: &str) -> Key {
        Key {
            uuid: uuid.map(str::to_owned),
            device: device.map(str::to_owned),
            passphrase: passphrase.to_owned(),
        }
    }

    #[test]
    fn a_key_that_names_the_volume_is_tried_first_and_one_of_another_never() {
        let volume =
            Volume { device: "/dev/sda5".to_owned(), uuid: Some("AB-12".to_owned()), ..Volume::default() };
        let keys = [
            key(None, None, "any"),
            key(Some("cd-34"), None, "another's"),
            key(Some("ab-12"), None, "by uuid"),
            key(None, Some("/dev/sda5"), "by device"),
        ];
        let tried: Vec<&str> = meant_for(&keys, &volume).iter().map(|key| key.passphrase.as_str()).collect();
        assert_eq!(tried, ["by uuid", "by device", "any"]);
    }

    #[test]
    fn what_was_only_too_slow_is_tried_once_more_and_says_nothing_of_the_key() {
        let slow = "cryptsetup_open: device-mapper: reload ioctl on luks failed: Connection timed out";
        let tries = std::cell::Cell::new(0);
        let answer = |said: [Answered; 2]| {
            tries.set(0);
            patiently(|| {
                tries.set(tries.get() + 1);
                said[tries.get() - 1].clone()
            })
        };
        assert_eq!((answer([Err(slow.to_owned()), Ok(())]), tries.get()), (Ok(()), 2));
        let wrong = Err("No key available with this passphrase.".to_owned());
        assert_eq!((answer([wrong.clone(), Ok(())]), tries.get()), (wrong, 1));
        let error = late(&Volume::default(), slow);
        assert_eq!(error.disposition(), crate::model::error::Disposition::Transient);
    }

    #[test]
    fn the_name_of_the_inside_holds_nothing_but_letters_and_digits() {
        let volume = Volume { uuid: Some("../a b-1".to_owned()), ..Volume::default() };
        assert_eq!(mapped_name(&volume), "luks-ab1");
    }
}
