//! TLS: a certificate and its key from PEM files.
//!
//! # Design
//! TLS 1.2 and 1.3 by rustls, HTTP/2 and HTTP/1.1 offered by ALPN. When the files change, new connections get the new
//! certificate; files that cannot be used leave the old one.
//!
//! # Errors
//! A key that everybody on the machine can read is refused, as other secrets are, at the start and later.
use lockstep_subnet::consensus::genesis::{GenesisError, check_private};
use rustls::{
    InconsistentKeys, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};
use tokio_rustls::TlsAcceptor;

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} holds no {expected} in PEM form", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        expected: &'static str,
    },
    /// The file of the key is not there, or everybody can read it.
    #[error(transparent)]
    Secret(#[from] GenesisError),
    /// The key is another one's.
    #[error("the key in {} is not that of the first certificate in {}", key.display(), certificate.display())]
    Mismatch {
        /// The file of the certificates.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
    },
    /// Certificate and key cannot be used together.
    #[error("certificate and key cannot be used")]
    Unusable(#[from] rustls::Error),
}

/// When the two files were changed.
type Changed = [Option<SystemTime>; 2];

/// A certificate with its key.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    current: Mutex<(Arc<ServerConfig>, Changed)>,
}

impl Tls {
    /// Reads a chain of certificates, the server's first, and the key of the first.
    ///
    /// # Errors
    /// [`TlsError`] says which file is of no use.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let changed = changed(certificate, key);
        let config = read(certificate, key)?;
        Ok(Self {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            current: Mutex::new((config, changed)),
        })
    }

    /// Reads the files again if they have changed; whether they had. Blocks on the disk.
    ///
    /// # Errors
    /// [`TlsError`]; what was read before stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let changed = changed(&self.certificate, &self.key);
        if changed == self.lock().1 {
            return Ok(false);
        }
        let config = read(&self.certificate, &self.key)?;
        *self.lock() = (config, changed);
        Ok(true)
    }

    /// What takes the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.lock().0).into()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Arc<ServerConfig>, Changed)> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn changed(certificate: &Path, key: &Path) -> Changed {
    [certificate, key].map(|path| fs::metadata(path).and_then(|file| file.modified()).ok())
}

fn read(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let pem = |path: &Path| {
        fs::read(path).map_err(|source| TlsError::File {
            path: path.to_owned(),
            source,
        })
    };
    let no = |path: &Path, expected| TlsError::Pem {
        path: path.to_owned(),
        expected,
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem(certificate)?)
        .collect::<Result<_, _>>()
        .map_err(|_| no(certificate, "certificates"))?;
    if chain.is_empty() {
        return Err(no(certificate, "certificates"));
    }
    check_private(key)?;
    // What is wrong with a key is not told: it might tell the key.
    let secret = PrivateKeyDer::from_pem_slice(&pem(key)?).map_err(|_| no(key, "private key"))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsError::Mismatch {
                certificate: certificate.to_owned(),
                key: key.to_owned(),
            },
            error => error.into(),
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
