//! What a disk holds by the tables of a snapshot, whole, cut off and changed.

use super::*;

/// A file in memory that counts how often it is asked.
#[derive(Debug)]
struct Memory {
    bytes: Vec<u8>,
    asked: Mutex<usize>,
}

impl Stored for Memory {
    fn name(&self) -> String {
        "delta".to_owned()
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        *self.asked.lock().unwrap() += 1;
        let at = usize::try_from(at).unwrap();
        buffer.copy_from_slice(&self.bytes[at..at + buffer.len()]);
        Ok(())
    }
}

fn put(file: &mut [u8], at: usize, value: &[u8]) {
    file[at..at + value.len()].copy_from_slice(value);
}

fn sector_of(number: u8) -> [u8; 512] {
    [number; 512]
}

/// 6000 sectors in two tables of which the second is not there; sectors 1 to 3 and 9 are written, the later ones first.
fn cowd() -> Vec<u8> {
    let mut file = vec![0; 5 * 512 + 4096 * 4];
    file[..4].copy_from_slice(COWD);
    for (index, value) in [1_u32, 3, 6000, 1, 4, 2].into_iter().enumerate() {
        put(&mut file, 4 + index * 4, &value.to_le_bytes());
    }
    put(&mut file, 4 * 512, &5_u32.to_le_bytes());
    for number in [9_u8, 3, 1, 2] {
        let place = u32::try_from(file.len() / 512).unwrap();
        put(&mut file, 5 * 512 + usize::from(number) * 4, &place.to_le_bytes());
        file.extend(sector_of(number));
    }
    file
}

/// Three grains: one that is written, one of zeros, one that is not there; its grains have numbers beyond the lowest twelve bits.
fn se_sparse() -> Vec<u8> {
    let (directory, tables, grains) = (8_usize, 16_usize, 80_usize);
    let mut file = vec![0; grains * 512];
    let header = [SE_SPARSE, SE_SPARSE_VERSION, 24, 8, 64];
    for (index, value) in header.into_iter().enumerate() {
        put(&mut file, index * 8, &value.to_le_bytes());
    }
    for (at, sector) in [(80, 1), (128, directory), (144, tables), (192, grains)] {
        put(&mut file, at, &(sector as u64).to_le_bytes());
    }
    put(&mut file, 512, &SE_SPARSE_VOLATILE.to_le_bytes());
    put(&mut file, directory * 512, &(1_u64 << 60).to_le_bytes());
    let number = 1_u64;
    file.resize(grains * 512 + 4096, 0);
    file.extend([7; 4096]);
    for (index, entry) in [3 << 60 | number << 48, 2 << 60, 0].into_iter().enumerate() {
        put(&mut file, tables * 512 + index * 8, &u64::to_le_bytes(entry));
    }
    file
}

fn opened(bytes: Vec<u8>) -> Result<(Arc<Memory>, Arc<Grains>)> {
    let file = Arc::new(Memory { bytes, asked: Mutex::default() });
    let grains = Grains::open(file.as_ref())?;
    Ok((file, Arc::new(grains)))
}

fn reader(bytes: Vec<u8>) -> Result<Box<dyn Reader>> {
    let (file, grains) = opened(bytes)?;
    let size = grains.bytes();
    Ok(grains.reader(file, size, Holds::Below))
}

/// What it holds, range by range.
fn map(reader: &dyn Reader) -> Result<Vec<(u64, Holds)>> {
    let (mut at, mut map, mut room) = (0, Vec::new(), Room::default());
    while at < reader.size() {
        let range = reader.next_range(at, &mut room)?;
        map.push((range.length / 512, range.holds));
        at = range.end();
    }
    Ok(map)
}

#[test]
fn a_snapshot_of_small_grains_holds_what_was_written_and_nothing_else() {
    let (file, grains) = opened(cowd()).unwrap();
    let reader = grains.reader(Arc::<Memory>::clone(&file), 6000 * 512, Holds::Below);
    let map = map(reader.as_ref()).unwrap();
    let below = |sectors| (sectors, Holds::Below);
    assert_eq!(map, [below(1), (3, Holds::Data), below(5), (1, Holds::Data), below(5990)]);
    let before = *file.asked.lock().unwrap();
    let mut buffer = vec![0xff; 10 * 512];
    reader.read(0, &mut buffer, &mut Room::default()).unwrap();
    for (number, sector) in buffer.chunks(512).enumerate() {
        let is = if [1, 2, 3, 9].contains(&number) { u8::try_from(number).unwrap() } else { 0 };
        assert_eq!(sector, sector_of(is), "{number}");
    }
    assert_eq!(
        *file.asked.lock().unwrap() - before,
        1,
        "grains that lie close come at once, and the table was there"
    );
}

#[test]
fn a_snapshot_of_large_grains_knows_zeros_from_what_lies_below() {
    let reader = reader(se_sparse()).unwrap();
    assert_eq!(map(reader.as_ref()).unwrap(), [(8, Holds::Data), (8, Holds::Zeros), (8, Holds::Below)]);
    let mut buffer = vec![0xff; 8192];
    reader.read(2048, &mut buffer, &mut Room::default()).unwrap();
    assert!(buffer[..2048].iter().all(|byte| *byte == 7) && buffer[2048..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_snapshot_on_its_base_is_the_disk_as_it_is_now() {
    let base = Arc::new(Memory { bytes: vec![0xee; 6000 * 512], asked: Mutex::default() });
    let plain = Box::new(Plain { file: base, offset: 0, bytes: 6000 * 512 });
    let disk = stacked(reader(cowd()).unwrap(), plain);
    let mut buffer = vec![0; 3 * 512];
    disk.read(0, &mut buffer, &mut Room::default()).unwrap();
    assert_eq!((buffer[0], buffer[512], buffer[1024]), (0xee, 1, 2));
}

#[test]
fn one_that_was_cut_or_changed_anywhere_is_read_or_refused() {
    let mut refused = 0;
    for whole in [cowd(), se_sparse()] {
        let places = (0..1024).chain(2048..2060).chain(4096..4104).chain(8192..8216);
        for at in places.filter(|at| *at < whole.len()) {
            let mut changed = whole.clone();
            changed[at] ^= 0xff;
            for bytes in [changed, whole[..at].to_vec()] {
                let read = reader(bytes).and_then(|reader| map(reader.as_ref()));
                refused += usize::from(read.is_err());
            }
        }
        let journal = {
            let mut file = whole.clone();
            file[512 + 24] = 1;
            reader(file)
        };
        assert_eq!(journal.is_err(), whole[0] != b'C', "a journal that is to be played is told");
    }
    assert!(refused > 2000, "{refused}");
}
