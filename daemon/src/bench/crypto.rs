//! `minivpn bench crypto`: what sealing and opening one packet costs, without any input or output around it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use dataplane::datachannel::aead::{self, Aead, OpeningKey, SealingKey};
use dataplane::datachannel::header::{DataHeader, SendHeader};
use link::message::{Cipher, DirectionKey, Secret};

use super::results::CryptoRow;

/// Plaintext sizes in bytes: from a keystroke to a jumbo frame.
pub(super) const SIZES: [usize; 7] = [64, 256, 512, 1_024, 1_400, 4_096, 9_000];

/// The ciphers of the data channel.
pub(super) const CIPHERS: [Cipher; 4] =
    [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

/// Operations between two looks at the clock.
const BATCH: u32 = 256;
/// Packets that are worked on in turn: as on the path, the next one is not where the last one was.
const PACKETS: usize = 32;
/// The cost is the median of this many shares of the time.
const SHARES: u32 = 9;

/// The rows of one implementation and one cipher. `None` where it cannot do the cipher.
pub(super) fn row(backend: &Aead, cipher: Cipher, size: usize, time: Duration) -> Option<CryptoRow> {
    // OpenVPN's other implementations hand ChaCha20-Poly1305 to the library: that row stands there already.
    if !aead::supports(cipher) {
        return None;
    }
    let key = DirectionKey {
        key: Secret((1..=cipher.key_len() as u8).collect()),
        implicit_iv: Secret((1..=aead::IMPLICIT_IV_LEN as u8).collect()),
    };
    let mut sealing = SealingKey::new(backend, cipher, &key)?;
    let mut opening = OpeningKey::new(backend, cipher, &key)?;
    let header = SendHeader::new(Some(1), 0);
    let plain = vec![0x5a; size];
    let mut wire = vec![vec![0; size + header.overhead()]; PACKETS];
    // Each id is used once with this key, as on the path; the opening half looks at no ids.
    let mut id = 0u32;
    let seal_ns = cost(time / 2, || {
        id = id.wrapping_add(1);
        let out = wire.get_mut(id as usize % PACKETS)?;
        sealing.seal(&header, id, black_box(&plain), out).then_some(())
    })?;
    for (at, out) in wire.iter_mut().enumerate() {
        sealing.seal(&header, at as u32, &plain, out);
    }
    let mut out = vec![0; size];
    let mut at = 0;
    let open_ns = cost(time / 2, || {
        at = (at + 1) % PACKETS;
        let (_, parts) = DataHeader::parse(black_box(wire.get(at)?)).ok()?;
        opening.open(at as u32, &parts, &mut out).then_some(())
    })?;
    Some(CryptoRow { backend: backend.info().name.into(), cipher: cipher.name().into(), size, seal_ns, open_ns })
}

/// ns of one operation: the median over shares of the time. `None` when it fails once.
fn cost(time: Duration, mut once: impl FnMut() -> Option<()>) -> Option<f64> {
    let mut shares = Vec::new();
    for _ in 0..SHARES {
        let (began, mut count) = (Instant::now(), 0u32);
        while count == 0 || began.elapsed() < time / SHARES {
            for _ in 0..BATCH {
                once()?;
            }
            count = count.saturating_add(BATCH);
        }
        shares.push(began.elapsed().as_nanos() as f64 / f64::from(count));
    }
    shares.sort_by(f64::total_cmp);
    shares.get(shares.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cipher_of_this_build_costs_something() {
        for cipher in CIPHERS.into_iter().filter(|cipher| aead::supports(*cipher)) {
            let row = row(&Aead::default(), cipher, 64, Duration::from_millis(2)).unwrap();
            assert!(row.seal_ns > 0.0 && row.open_ns > 0.0, "{row:?}");
            assert_eq!((row.size, row.cipher.as_str()), (64, cipher.name()));
        }
    }

    #[test]
    fn an_operation_that_fails_has_no_cost() {
        assert_eq!(cost(Duration::from_millis(1), || None), None);
    }
}
