//! The file of a backup: an archive of pg_dump (custom format) as it is, behind it a manifest, behind that a line that sums
//! up all of it. `pg_restore` reads the archive and leaves the rest alone, so a backup is of use without this program.
//!
//! ```text
//! PGDMP…                                            the archive
//! {"format":1,"schema":"public","tables":[…]}       the manifest: one line of JSON
//! LAMPLIGHTER BACKUP 1 <length of the manifest, 16 hex digits> <SHA-256 of everything before this line>
//! ```

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{MB, block_on, shown};
use crate::access::token::hex;
use crate::cli::output::{Output, failed};
use crate::cli::progress::Progress;
use crate::cli::{Exit, Stop, counted, exit};

/// What pg_dump's archives begin with.
const ARCHIVE: &[u8] = b"PGDMP";
const LAST_LINE: &str = "LAMPLIGHTER BACKUP 1 ";
/// The last line: its words, 16 digits, a space, 64 digits, the end.
const LAST_LINE_BYTES: u64 = LAST_LINE.len() as u64 + 16 + 1 + 64 + 1;
/// A manifest names every table: some hundred thousand would fit.
const MANIFEST_MOST: u64 = 64 << 20;
const CHUNK: usize = 1 << 20;

/// What is in a backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Of this file: 1.
    pub(super) format: u32,
    /// The program that made it.
    pub(super) lamplighter: String,
    /// The moment that it shows, by the server's clock.
    pub(super) taken_at: DateTime<Utc>,
    /// Version of the server.
    pub(super) server: String,
    /// Major version of pg_dump: pg_restore must be at least as new.
    pub(super) pg_dump: u32,
    /// `database.schema`: names in the archive have it in front.
    pub(super) schema: String,
    /// All schemas in it.
    pub(super) schemas: Vec<String>,
    /// Migrations that were applied.
    pub(super) migrations: Vec<i64>,
    /// Every table with rows of its own.
    pub(super) tables: Vec<TableSum>,
}

/// What a table held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TableSum {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) rows: i64,
    /// See `store::backup::Sum`.
    pub(super) sum: String,
}

impl Manifest {
    pub(super) fn rows(&self) -> i64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    pub(super) fn summary(&self) -> String {
        let tables = counted(self.tables.len(), "table");
        format!(
            "{} rows in {tables}, of {}, schema {:?}, migration {}, PostgreSQL {}",
            self.rows(),
            self.taken_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            self.schema,
            self.migrations.iter().max().copied().unwrap_or(0),
            self.server
        )
    }
}

/// Puts the manifest and the last line behind an archive that was written to the file. Returns the size of it all.
pub(super) async fn seal(output: &mut Output, manifest: &Manifest, path: &Path) -> Result<u64, Stop> {
    let fail = |error: &std::io::Error| failed(path, error);
    let mut line = serde_json::to_vec(manifest).map_err(|error| Stop::new(Exit::Failure, error.to_string()))?;
    line.push(b'\n');
    let archive = output.file().seek(SeekFrom::End(0)).map_err(|error| fail(&error))?;
    output.write(&line)?;
    let length = archive + line.len() as u64;
    let sum = sum_of(output.file(), length, "summing up", path).await?;
    output.file().seek(SeekFrom::End(0)).map_err(|error| fail(&error))?;
    output.write(format!("{LAST_LINE}{:016x} {sum}\n", line.len()).as_bytes())?;
    Ok(length + LAST_LINE_BYTES)
}

/// SHA-256 of the first bytes of a file. Others get a turn after each chunk: a signal is heard.
async fn sum_of(file: &mut File, length: u64, what: &str, path: &Path) -> Result<String, Stop> {
    let fail = |error: &std::io::Error| failed(path, error);
    file.seek(SeekFrom::Start(0)).map_err(|error| fail(&error))?;
    let mut progress = Progress::new(format!("{what} {}", shown(path)), length / MB, "MB");
    let (mut hasher, mut buffer, mut left) = (Sha256::new(), vec![0; CHUNK], length);
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let part = buffer.get_mut(..want).unwrap_or_default();
        file.read_exact(part).map_err(|error| fail(&error))?;
        hasher.update(&*part);
        left -= want as u64;
        progress.at((length - left) / MB);
        tokio::task::yield_now().await;
    }
    Ok(hex(&hasher.finalize()))
}

/// Reads a backup to its end, and its manifest. Whatever was cut off or changed, be it one bit, is found.
pub(super) async fn read(path: &Path) -> Result<Manifest, Stop> {
    let fail = |error: &std::io::Error| failed(path, error);
    let bad = |what: &str| {
        let text = format!("{}: {what}; nothing was done with it", shown(path));
        Stop::new(Exit::Failure, text)
    };
    let mut file = File::open(path).map_err(|error| fail(&error))?;
    let found = file.metadata().map_err(|error| fail(&error))?;
    if !found.is_file() {
        return Err(bad("is not a regular file"));
    }
    let mut begin = [0; ARCHIVE.len()];
    if file.read_exact(&mut begin).is_err() || begin != ARCHIVE {
        return Err(bad("is not a backup of `lamplighter db dump`"));
    }
    let cut = "is not a whole backup: its end is missing, or pg_dump made it by itself";
    let Some(length) = found.len().checked_sub(LAST_LINE_BYTES) else { return Err(bad(cut)) };
    file.seek(SeekFrom::Start(length)).map_err(|error| fail(&error))?;
    let mut last = String::new();
    let (manifest_bytes, sum) = match (&mut file).take(LAST_LINE_BYTES).read_to_string(&mut last) {
        Ok(_) => parse(&last).filter(|(bytes, _)| *bytes <= length.min(MANIFEST_MOST)).ok_or_else(|| bad(cut))?,
        Err(_) => return Err(bad(cut)),
    };
    if sum_of(&mut file, length, "verifying", path).await? != sum {
        return Err(bad("was changed since it was made: its SHA-256 is another"));
    }
    file.seek(SeekFrom::Start(length - manifest_bytes)).map_err(|error| fail(&error))?;
    let mut line = Vec::new();
    file.take(manifest_bytes).read_to_end(&mut line).map_err(|error| fail(&error))?;
    let manifest: Manifest = serde_json::from_slice(&line).map_err(|error| {
        bad(&format!("is of another version of this program: its manifest cannot be read: {error}"))
    })?;
    if manifest.format == 1 { Ok(manifest) } else { Err(bad("is of a newer version of this program")) }
}

/// The length of the manifest, and the sum, of a last line.
fn parse(line: &str) -> Option<(u64, &str)> {
    let (length, sum) = line.strip_prefix(LAST_LINE)?.strip_suffix('\n')?.split_once(' ')?;
    let digits = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (length.len() == 16 && sum.len() == 64 && digits(length) && digits(sum)).then_some(())?;
    Some((u64::from_str_radix(length, 16).ok()?, sum))
}

/// `lamplighter db verify`: needs no database.
pub(in crate::cli) fn verify(path: &Path) -> Result<Exit, Stop> {
    let manifest = block_on(read(path))?;
    exit::say(&format!("{}: whole and unchanged: {}\n", shown(path), manifest.summary()));
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        Manifest {
            format: 1,
            lamplighter: "0".to_owned(),
            taken_at: DateTime::UNIX_EPOCH,
            server: "15".to_owned(),
            pg_dump: 15,
            schema: "public".to_owned(),
            schemas: vec!["public".to_owned()],
            migrations: vec![1, 2],
            tables: vec![TableSum { schema: "public".to_owned(), name: "t".to_owned(), rows: 3, sum: "5".to_owned() }],
        }
    }

    #[tokio::test]
    async fn any_change_of_a_backup_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.backup");
        let mut output = Output::begin(&path, 0o600).unwrap();
        output.write(b"PGDMP an archive").unwrap();
        let size = seal(&mut output, &manifest(), &path).await.unwrap();
        output.finish().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size);
        assert_eq!(read(&path).await.unwrap().tables, manifest().tables);
        let whole = crate::settings::limited::read(&path, 10_000).unwrap().into_bytes();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(read(&path).await.is_err(), "bit 0 of byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).await.is_err(), "cut off at {at}");
        }
        std::fs::write(&path, [&whole[..], b"\n"].concat()).unwrap();
        assert!(read(&path).await.is_err());
        std::fs::write(&path, &whole).unwrap();
        assert!(read(&path).await.is_ok());
        assert!(read(folder.path()).await.is_err() && read(&folder.path().join("none")).await.is_err());
    }
}
