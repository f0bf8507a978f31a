//! Small JSON files in the state directory: registries ask to be asked seldom, also across restarts.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::settings::limited;

/// As large a file is read.
const MAX_BYTES: u64 = 4 << 20;

/// What a file holds; none when there is no folder or no such file, or it is broken.
pub(super) async fn load<T: DeserializeOwned + Send + 'static>(folder: Option<&Path>, name: &str) -> Option<T> {
    let path = folder?.join(name);
    let reading = tokio::task::spawn_blocking(move || limited::read(&path, MAX_BYTES).ok());
    serde_json::from_str(&reading.await.ok()??).ok()
}

/// Writes a file as a whole or not at all. A failure costs one question more after the next start, so it is only logged.
pub(super) async fn save(folder: Option<&Path>, name: &str, value: &impl Serialize) {
    let (Some(folder), Ok(text)) = (folder, serde_json::to_vec(value)) else { return };
    let (folder, path) = (folder.to_owned(), folder.join(name));
    let shown = path.display().to_string();
    let writing = tokio::task::spawn_blocking(move || write(&folder, &path, &text));
    if let Ok(Err(error)) = writing.await {
        log::warn!("an answer of a registry could not be kept in {shown}: {error}");
    }
}

fn write(folder: &Path, path: &Path, text: &[u8]) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    // Two checks may keep the same answer at once.
    let draft: PathBuf = path.with_extension(uuid::Uuid::new_v4().simple().to_string());
    let written = std::fs::File::create(&draft).and_then(|mut file| file.write_all(text));
    written.and_then(|()| std::fs::rename(&draft, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&draft);
    })
}
