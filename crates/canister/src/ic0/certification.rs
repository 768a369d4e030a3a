//! Certified data and certificates.
use super::{
    import, import_blob,
    letters::{ANY, C, CQ, G, I, NRQ, RQ, RT, RY, T, U},
};
use crate::host::{
    Contexts, Host, Imports, Pointer, context, copy, copy_as, enter, read, violated,
};
use wasmtime::Caller;

const CERTIFIED_DATA_BYTES_MAX: u64 = 32;
const CERTIFIED: Contexts = NRQ | CQ;

pub(super) fn define<P: Pointer>(imports: &mut Imports) {
    import_blob!(imports, P, root_key_size, root_key_copy in I | G | U | RQ | RY | RT | C | T, "bytes", |host| &*host.root_key);
    import!(imports, certified_data_set in I | G | U | RY | RT | T, bytes(size), (caller, src: P, size: P) {
        let bytes = size.widen();
        if bytes > CERTIFIED_DATA_BYTES_MAX {
            return violated(format!(
                "ic0_certified_data_set failed because the passed data must be no larger than {CERTIFIED_DATA_BYTES_MAX} bytes. Found {bytes} bytes."
            ));
        }
        let data = read(caller, NAME, src, size)?;
        caller.data_mut().certified_data = Some(data);
        Ok(())
    });
    import!(imports, data_certificate_present in ANY, (caller) -> i32 { Ok(i32::from(caller.data().data_certificate.is_some())) });
    import!(imports, data_certificate_size in CERTIFIED, (caller) -> P {
        check_present(caller.data(), NAME)?;
        Ok(P::narrow(certificate(caller.data()).len() as u64))
    });
    import!(imports, data_certificate_copy in CERTIFIED, bytes(size), (caller, dst: P, offset: P, size: P) {
        check_present(caller.data(), NAME)?;
        copy(caller, NAME, certificate, (dst, offset, size))
    });
}

fn certificate(host: &Host) -> &[u8] {
    host.data_certificate.as_deref().unwrap_or_default()
}

/// A query that has no certificate is refused as if it were in another context.
fn check_present(host: &Host, name: &str) -> wasmtime::Result<()> {
    if host.data_certificate.is_some() {
        return Ok(());
    }
    violated(format!(
        "\"ic0_{name}\" cannot be executed in {} mode",
        context::name(host.context)
    ))
}
