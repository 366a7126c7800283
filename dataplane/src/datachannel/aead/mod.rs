//! Sealing and opening of data packets: one interface over whichever AEAD implementation runs ([`Aead`]).
//!
//! The tag stands before the ciphertext, and the nonce is the packet id followed by the 8 bytes of the key's implicit IV
//! (OpenVPN wire protocol, AEAD data packets). Both directions work from one buffer into another, so that a packet is moved
//! once, by the cipher itself where the implementation can; nothing is allocated. A batch is sealed by one call, which looks once at
//! which implementation it is; opening goes packet by packet, because each decides where the next one lands.

mod backend;
mod library;

use link::message::{Cipher, DirectionKey, Path};
use zeroize::Zeroize;

use self::backend::Backend;
pub use self::backend::{Aead, AeadChoice, AeadError, AeadInfo, UnknownAead};
use super::header::{Parts, SendHeader, TAG_LEN};
use crate::networkio::gso::WireBatch;
use crate::sys::ipsec_mb::{GcmKey, PaddedNonce};
use crate::tun::split::Segments;

/// Bytes of the implicit part of the nonce.
pub const IMPLICIT_IV_LEN: usize = 8;

/// The library that was built in, for status output. It does what the implementation that runs leaves to it.
pub const BACKEND: &str = library::NAME;

/// What ipsec-mb does; the rest is the library's.
const AES: [Cipher; 3] = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm];

/// Whether this build can do the cipher (AES-192-GCM needs aws-lc, so that what a build offers does not depend on the host).
pub fn supports(cipher: Cipher) -> bool {
    library::algorithm(cipher).is_some()
}

/// One direction's key, ready for use. Wiped on drop, as far as the implementation wipes what it frees.
struct Key {
    cipher: CipherKey,
    implicit_iv: [u8; IMPLICIT_IV_LEN],
}

// ring's key stands inline: one per direction and key, so its size matters less than a pointer more on the way to it.
#[allow(clippy::large_enum_variant)]
enum CipherKey {
    Library(library::Key),
    IpsecMb(GcmKey),
    #[cfg(feature = "no-crypto")]
    None(NoCrypto),
}

impl Key {
    fn new(aead: &Aead, cipher: Cipher, key: &DirectionKey) -> Option<Self> {
        let bytes = key.key.0.as_slice();
        let implicit_iv = key.implicit_iv.0.as_slice().try_into().ok()?;
        if !supports(cipher) || bytes.len() != cipher.key_len() || bytes.iter().all(|&byte| byte == 0) {
            return None;
        }
        let cipher = match aead.backend {
            Backend::IpsecMb(library) if AES.contains(&cipher) => CipherKey::IpsecMb(GcmKey::new(&library, bytes)?),
            Backend::Library | Backend::IpsecMb(_) => CipherKey::Library(library::Key::new(cipher, bytes)?),
            #[cfg(feature = "no-crypto")]
            Backend::None => CipherKey::None(NoCrypto),
        };
        Some(Key { cipher, implicit_iv })
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.implicit_iv.zeroize();
    }
}

/// The implicit half of every nonce of a key, where it stands in the nonce.
#[inline]
fn nonce_base(implicit_iv: [u8; IMPLICIT_IV_LEN]) -> PaddedNonce {
    PaddedNonce::from(u64::from_le_bytes(implicit_iv)) << 32
}

#[inline]
fn nonce(base: PaddedNonce, packet_id: u32) -> PaddedNonce {
    base | PaddedNonce::from(packet_id.swap_bytes())
}

/// The packet ids that are left to seal with, in order.
#[derive(Debug)]
pub struct PacketIds {
    next: u32,
    left: u32,
}

impl PacketIds {
    /// `count` ids from `first` on; `None` when one of them would be above the largest.
    #[inline]
    pub fn new(first: u64, count: u64) -> Option<Self> {
        let (next, left) = (u32::try_from(first).ok()?, u32::try_from(count).ok()?);
        // The last one is `next + left - 1`.
        (left == 0 || next.checked_add(left - 1).is_some()).then_some(PacketIds { next, left })
    }

    /// Takes one: nobody else gets it.
    #[inline]
    pub fn take(&mut self) -> Option<u32> {
        self.left = self.left.checked_sub(1)?;
        let id = self.next;
        self.next = id.wrapping_add(1);
        Some(id)
    }
}

/// The key we seal with.
pub struct SealingKey(Key);

impl SealingKey {
    /// `None` when the lengths are wrong, the key is all zero, or the build lacks the cipher.
    pub fn new(aead: &Aead, cipher: Cipher, key: &DirectionKey) -> Option<Self> {
        Key::new(aead, cipher, key).map(SealingKey)
    }

    /// Writes the whole wire packet into `out`, which is `header.overhead()` bytes longer than `plaintext`. False when
    /// the lengths do not fit; `out` is undefined then. The caller gives every packet id once.
    #[inline]
    pub fn seal(&mut self, header: &SendHeader, packet_id: u32, plaintext: &[u8], out: &mut [u8]) -> bool {
        let base = nonce_base(self.0.implicit_iv);
        match &mut self.0.cipher {
            CipherKey::Library(key) => seal_one(key, base, header, packet_id, plaintext, out),
            CipherKey::IpsecMb(key) => seal_one(key, base, header, packet_id, plaintext, out),
            #[cfg(feature = "no-crypto")]
            CipherKey::None(key) => seal_one(key, base, header, packet_id, plaintext, out),
        }
    }

    /// Seals every packet straight into the batch, for `path`. How many: fewer than there are when ids or room run out.
    #[inline]
    pub fn seal_all(
        &mut self,
        header: &SendHeader,
        ids: &mut PacketIds,
        packets: &mut Segments<'_>,
        path: &Path,
        out: &mut WireBatch,
    ) -> usize {
        let base = nonce_base(self.0.implicit_iv);
        match &mut self.0.cipher {
            CipherKey::Library(key) => seal_each(key, base, header, ids, packets, path, out),
            CipherKey::IpsecMb(key) => seal_each(key, base, header, ids, packets, path, out),
            #[cfg(feature = "no-crypto")]
            CipherKey::None(key) => seal_each(key, base, header, ids, packets, path, out),
        }
    }
}

/// What an implementation does with one message. The tag is apart; both directions go from one buffer into another.
trait Implementation {
    fn seal(
        &mut self,
        nonce: PaddedNonce,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool;
}

impl Implementation for library::Key {
    #[inline]
    fn seal(
        &mut self,
        nonce: PaddedNonce,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool {
        library::Key::seal(self, nonce, aad, plaintext, ciphertext, tag)
    }
}

impl Implementation for GcmKey {
    #[inline]
    fn seal(
        &mut self,
        nonce: PaddedNonce,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool {
        GcmKey::seal(self, nonce, aad, plaintext, ciphertext, tag)
    }
}

/// The key of [`Aead::none`].
#[cfg(feature = "no-crypto")]
struct NoCrypto;

#[cfg(feature = "no-crypto")]
impl Implementation for NoCrypto {
    #[inline]
    fn seal(
        &mut self,
        _: PaddedNonce,
        _: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool {
        tag.fill(0);
        copy(plaintext, ciphertext)
    }
}

#[cfg(feature = "no-crypto")]
#[inline]
fn copy(from: &[u8], to: &mut [u8]) -> bool {
    from.len() == to.len() && {
        to.copy_from_slice(from);
        true
    }
}

#[inline]
fn seal_one(
    key: &mut impl Implementation,
    base: PaddedNonce,
    header: &SendHeader,
    packet_id: u32,
    plaintext: &[u8],
    out: &mut [u8],
) -> bool {
    match header.write(packet_id, out) {
        Some((aad, tag, ciphertext)) => key.seal(nonce(base, packet_id), aad, plaintext, ciphertext, tag),
        None => false,
    }
}

#[inline]
fn seal_each(
    key: &mut impl Implementation,
    base: PaddedNonce,
    header: &SendHeader,
    ids: &mut PacketIds,
    packets: &mut Segments<'_>,
    path: &Path,
    out: &mut WireBatch,
) -> usize {
    let overhead = header.overhead();
    let mut sealed = 0;
    while let Some(packet) = packets.next() {
        let Some(mut room) = out.reserve(packet.len() + overhead) else {
            break;
        };
        let Some(packet_id) = ids.take() else {
            break;
        };
        if !seal_one(key, base, header, packet_id, packet, room.bytes()) {
            break;
        }
        room.commit(path);
        sealed += 1;
    }
    sealed
}

/// The key we open with.
pub struct OpeningKey(Key);

impl OpeningKey {
    /// `None` when the lengths are wrong, the key is all zero, or the build lacks the cipher.
    pub fn new(aead: &Aead, cipher: Cipher, key: &DirectionKey) -> Option<Self> {
        Key::new(aead, cipher, key).map(OpeningKey)
    }

    /// Verifies and decrypts into `out`, which is as long as the ciphertext. False when the tag does not match or the lengths
    /// differ: `out` is undefined then, but holds no plaintext; the ciphertext is untouched.
    #[inline]
    pub fn open(&mut self, packet_id: u32, parts: &Parts<'_>, out: &mut [u8]) -> bool {
        let nonce = nonce(nonce_base(self.0.implicit_iv), packet_id);
        match &mut self.0.cipher {
            CipherKey::Library(key) => key.open(nonce, parts.aad, parts.ciphertext, parts.tag, out),
            CipherKey::IpsecMb(key) => key.open(nonce, parts.aad, parts.ciphertext, parts.tag, out),
            #[cfg(feature = "no-crypto")]
            CipherKey::None(NoCrypto) => copy(parts.ciphertext, out),
        }
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

impl std::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpeningKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datachannel::header::DataHeader;
    use crate::datachannel::ping::PING;
    use crate::tun::split;
    use crate::tun::test_packets::Packet;
    use link::message::Secret;
    use proptest::prelude::*;
    use std::sync::OnceLock;

    const CIPHERS: [Cipher; 4] = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    /// Every implementation that this build has, and ipsec-mb at every level of this processor. Where ipsec-mb exists it must be
    /// installed: scripts/ensure-tools does.
    fn aeads() -> &'static [Aead] {
        static AEADS: OnceLock<Vec<Aead>> = OnceLock::new();
        AEADS.get_or_init(|| {
            let mut all = vec![Aead::default()];
            #[cfg(target_arch = "x86_64")]
            {
                use crate::sys::ipsec_mb::{IpsecMb, Level};
                let levels = Level::ALL.into_iter().filter(|level| level.is_supported());
                all.extend(levels.map(|level| Aead::ipsec_mb(IpsecMb::load_at(Some(level)).unwrap()).unwrap()));
                assert!(all.len() > 1, "this processor lacks AES-NI");
            }
            all
        })
    }

    fn ciphers() -> impl Iterator<Item = Cipher> {
        CIPHERS.into_iter().filter(|&cipher| supports(cipher))
    }

    /// Every implementation with every cipher.
    fn all() -> impl Iterator<Item = (&'static Aead, Cipher)> {
        aeads().iter().flat_map(|aead| ciphers().map(move |cipher| (aead, cipher)))
    }

    fn direction(key: &[u8], implicit_iv: &[u8]) -> DirectionKey {
        DirectionKey { key: Secret(key.to_vec()), implicit_iv: Secret(implicit_iv.to_vec()) }
    }

    fn pair(aead: &Aead, cipher: Cipher) -> (SealingKey, OpeningKey) {
        let key: Vec<u8> = (1..=cipher.key_len() as u8).collect();
        let key = direction(&key, b"implicit");
        (SealingKey::new(aead, cipher, &key).unwrap(), OpeningKey::new(aead, cipher, &key).unwrap())
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn open(key: &mut OpeningKey, packet: &[u8]) -> Option<Vec<u8>> {
        let (header, parts) = DataHeader::parse(packet).ok()?;
        let mut out = vec![0; parts.ciphertext.len()];
        key.open(header.packet_id, &parts, &mut out).then_some(out)
    }

    fn seal(key: &mut SealingKey, header: SendHeader, packet_id: u32, plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; header.overhead() + plaintext.len()];
        assert!(key.seal(&header, packet_id, plaintext, &mut out));
        out
    }

    #[test]
    fn the_published_packet_with_a_made_up_opcode_comes_out() {
        let base = b"abcdefgh01234567ABCDEFGHjkuchenl";
        let key2: Vec<u8> = (0..=255u8).map(|i| base[usize::from(i) % 32] ^ i).collect();
        let key = direction(&key2[..32], &key2[64..72]);
        let plaintext = b"The quick little fox jumps over the bureaucratic hurdles";
        let expected = hex(
            "0700001700000001 1fdd908f0e9dc25e79d832020d58e73f 2262f977d6bb2118fa0ea82e6b1706d949aefcb5efcbbacd5c09a9ab45
             f4d391d3f68794cb0b82c3d33389b61622b3281598e2ff6d5cc38b",
        );
        for aead in aeads() {
            let mut seal_key = SealingKey::new(aead, Cipher::Aes256Gcm, &key).unwrap();
            assert_eq!(seal(&mut seal_key, SendHeader::V2([7, 0, 0, 0x17]), 1, plaintext), expected);

            let parts =
                Parts { aad: &expected[..8], tag: expected[8..24].try_into().unwrap(), ciphertext: &expected[24..] };
            let mut out = [0; 56];
            assert!(OpeningKey::new(aead, Cipher::Aes256Gcm, &key).unwrap().open(1, &parts, &mut out));
            assert_eq!(&out, plaintext);
        }
    }

    #[test]
    fn the_known_ping_packets_come_out() {
        let key2: Vec<u8> = (0..=255).collect();
        for (cipher, expected) in [
            (Cipher::Aes256Gcm, "4900002a00000007319d9c60d457c1ecf44276a8d62f227ed0c8549eefb870f4ff085acf1ee59063"),
            (
                Cipher::ChaCha20Poly1305,
                "4900002a00000007aaaee037d83addd5cc2f44abd3d2b8e6ce0d4ccaf1b81c775043ad6499b56239",
            ),
        ] {
            for aead in aeads() {
                let key = direction(&key2[..32], &key2[64..72]);
                let mut seal_key = SealingKey::new(aead, cipher, &key).unwrap();
                let sealed = seal(&mut seal_key, SendHeader::new(Some(42), 1), 7, &PING);
                assert_eq!(sealed, hex(expected), "{} {}", cipher.name(), aead.info());
                assert_eq!(open(&mut OpeningKey::new(aead, cipher, &key).unwrap(), &sealed).unwrap(), PING);
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for (aead, cipher) in all() {
            let (mut seal_key, mut open_key) = pair(aead, cipher);
            for (peer_id, unauthenticated) in [(Some(3), 0), (None, 1)] {
                let sealed = seal(&mut seal_key, SendHeader::new(peer_id, 2), 9, b"a packet");
                assert_eq!(open(&mut open_key, &sealed).unwrap(), b"a packet");
                // The opcode byte of P_DATA_V1 is not authenticated: flipping it makes another opcode or key-id.
                for bit in unauthenticated * 8..sealed.len() * 8 {
                    let mut forged = sealed.clone();
                    forged[bit / 8] ^= 1 << (bit % 8);
                    assert_eq!(open(&mut open_key, &forged), None, "{} bit {bit}, {}", cipher.name(), aead.info());
                }
                assert_eq!(open(&mut open_key, &sealed[..sealed.len() - 1]), None);
            }
        }
    }

    #[test]
    fn a_failed_open_leaves_the_ciphertext_for_the_next_key_and_no_plaintext() {
        for (aead, cipher) in all() {
            let (mut seal_key, mut open_key) = pair(aead, cipher);
            let other = direction(&vec![7; cipher.key_len()], b"implicit");
            let mut other = OpeningKey::new(aead, cipher, &other).unwrap();
            let mut sealed = seal(&mut seal_key, SendHeader::new(Some(3), 2), 9, &[5; 1400]);
            assert_eq!(open(&mut other, &sealed), None);
            assert_eq!(open(&mut open_key, &sealed).unwrap(), [5; 1400]);

            sealed[8] ^= 1;
            let (header, parts) = DataHeader::parse(&sealed).unwrap();
            let mut out = [0; 1400];
            assert!(!open_key.open(header.packet_id, &parts, &mut out));
            assert!(!out.contains(&5), "{} {}", cipher.name(), aead.info());
        }
    }

    #[test]
    fn another_implicit_iv_opens_nothing() {
        for (aead, cipher) in all() {
            let key: Vec<u8> = (1..=cipher.key_len() as u8).collect();
            let sealed = seal(&mut pair(aead, cipher).0, SendHeader::new(Some(3), 2), 9, b"a packet");
            for bit in 0..64 {
                let mut implicit_iv = *b"implicit";
                implicit_iv[bit / 8] ^= 1 << (bit % 8);
                let mut other = OpeningKey::new(aead, cipher, &direction(&key, &implicit_iv)).unwrap();
                assert_eq!(open(&mut other, &sealed), None);
            }
        }
    }

    #[test]
    fn keys_of_wrong_length_and_zero_keys_are_refused() {
        for (aead, cipher) in all() {
            let len = cipher.key_len();
            assert!(SealingKey::new(aead, cipher, &direction(&vec![1; len], &[0; 8])).is_some());
            for bad in [
                direction(&vec![1; len - 1], &[0; 8]),
                direction(&vec![1; len + 1], &[0; 8]),
                direction(&vec![0; len], &[0; 8]),
                direction(&vec![1; len], &[0; 7]),
                direction(&vec![1; len], &[0; 9]),
            ] {
                assert!(SealingKey::new(aead, cipher, &bad).is_none());
                assert!(OpeningKey::new(aead, cipher, &bad).is_none());
            }
        }
    }

    #[test]
    fn aes_192_is_there_exactly_where_the_build_has_it() {
        assert_eq!(supports(Cipher::Aes192Gcm), cfg!(feature = "aws-lc"));
        let key = direction(&[1; 24], &[0; 8]);
        for aead in aeads() {
            assert_eq!(SealingKey::new(aead, Cipher::Aes192Gcm, &key).is_some(), cfg!(feature = "aws-lc"));
        }
    }

    #[test]
    fn ipsec_mb_does_aes_and_the_library_does_the_rest() {
        for (aead, cipher) in all() {
            let ipsec_mb = matches!(pair(aead, cipher).0.0.cipher, CipherKey::IpsecMb(_));
            let expected = aead.info().name == "ipsec-mb" && cipher != Cipher::ChaCha20Poly1305;
            assert_eq!(ipsec_mb, expected, "{} {}", cipher.name(), aead.info());
        }
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        for (aead, cipher) in all() {
            let (mut seal_key, mut open_key) = pair(aead, cipher);
            let header = SendHeader::new(Some(3), 2);
            for len in [0, 23, 24 + 2, 24 + 4] {
                assert!(!seal_key.seal(&header, 1, b"abc", &mut vec![0; len]));
            }
            let sealed = seal(&mut seal_key, header, 1, b"abc");
            let (_, parts) = DataHeader::parse(&sealed).unwrap();
            assert!(!open_key.open(1, &parts, &mut [0; 2]));
            assert!(!open_key.open(1, &parts, &mut [0; 4]));
        }
    }

    fn to() -> Path {
        let remote = std::net::SocketAddr::from(([192, 0, 2, 1], 1194));
        Path { worker: 0, local: None, ifindex: 0, remote, stream: None }
    }

    /// Seals a super-packet of 5 segments with these ids into this batch.
    fn seal_all(key: &mut SealingKey, ids: &mut PacketIds, out: &mut WireBatch) -> usize {
        let mut frame = Packet::with_payload(5000).super_frame(1000);
        let plan = split::plan(&frame).unwrap();
        key.seal_all(&SendHeader::new(Some(3), 2), ids, &mut plan.segments(&mut frame), &to(), out)
    }

    #[test]
    fn a_batch_holds_what_one_by_one_would_make() {
        for (aead, cipher) in all() {
            let (mut seal_key, _) = pair(aead, cipher);
            let mut out = WireBatch::new(0, 64, true);
            let mut ids = PacketIds::new(7, 5).unwrap();
            assert_eq!(seal_all(&mut seal_key, &mut ids, &mut out), 5);
            assert_eq!(ids.take(), None);
            let expected: Vec<Vec<u8>> = (7..)
                .zip(Packet::with_payload(5000).segments(1000))
                .map(|(id, packet)| seal(&mut seal_key, SendHeader::new(Some(3), 2), id, &packet))
                .collect();
            assert_eq!(out.bytes(), expected.concat(), "{} {}", cipher.name(), aead.info());
            assert_eq!(out.runs().iter().map(|run| (run.count, run.path)).collect::<Vec<_>>(), [(5, to())]);
        }
    }

    #[test]
    fn a_batch_ends_where_ids_or_room_end() {
        let (mut seal_key, _) = pair(&Aead::default(), Cipher::Aes256Gcm);
        let mut out = WireBatch::new(0, 64, true);
        assert_eq!(seal_all(&mut seal_key, &mut PacketIds::new(1, 3).unwrap(), &mut out), 3);
        assert_eq!(out.runs()[0].count, 3);
        while out.room() > 3000 {
            out.reserve(1000).unwrap().commit(&to());
        }
        let mut ids = PacketIds::new(1, 9).unwrap();
        let sealed = seal_all(&mut seal_key, &mut ids, &mut out);
        assert!(sealed == 1 || sealed == 2, "{sealed}");
        assert_eq!(ids.take(), Some(1 + sealed as u32), "no id is used without a packet");
    }

    #[test]
    fn ids_end_at_the_largest() {
        let mut last = PacketIds::new(u64::from(u32::MAX) - 1, 2).unwrap();
        assert_eq!([last.take(), last.take(), last.take()], [Some(u32::MAX - 1), Some(u32::MAX), None]);
        assert!(PacketIds::new(u64::from(u32::MAX) - 1, 3).is_none());
        assert!(PacketIds::new(1 << 32, 1).is_none());
        assert!(PacketIds::new(1, 1 << 32).is_none());
        assert_eq!(PacketIds::new(1, 0).unwrap().take(), None);
    }

    #[cfg(feature = "no-crypto")]
    #[test]
    fn without_cryptography_packets_are_copied_and_anything_opens() {
        for cipher in ciphers() {
            let (mut seal_key, mut open_key) = pair(&Aead::none(), cipher);
            let mut sealed = seal(&mut seal_key, SendHeader::new(Some(3), 2), 9, b"a packet");
            assert_eq!(&sealed[8..24], [0; 16]);
            assert_eq!(&sealed[24..], b"a packet");
            sealed[8] = 1;
            assert_eq!(open(&mut open_key, &sealed).unwrap(), b"a packet");
        }
    }

    /// 0 to 9,000, more often where a loop or a block ends.
    fn lengths() -> impl Strategy<Value = usize> {
        let edge = (0usize..=32, prop::sample::select(vec![16, 64, 128, 256, 768, 1024, 4096]), 0usize..3);
        prop_oneof![
            0usize..=9000,
            0usize..300,
            edge.prop_map(|(n, block, around)| (n * block + around).saturating_sub(1).min(9000)),
        ]
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(plaintext in prop::collection::vec(any::<u8>(), 1..2000), id: u32, v1: bool) {
            for (aead, cipher) in all() {
                let (mut seal_key, mut open_key) = pair(aead, cipher);
                let header = SendHeader::new((!v1).then_some(77), 3);
                let sealed = seal(&mut seal_key, header, id, &plaintext);
                prop_assert_eq!(open(&mut open_key, &sealed).unwrap(), plaintext.clone());
            }
        }

        /// Whatever one implementation seals, every implementation seals alike and opens, and none opens it changed.
        #[test]
        fn the_implementations_agree(
            len in lengths(),
            key in prop::array::uniform32(1u8..),
            implicit_iv in prop::array::uniform8(any::<u8>()),
            id: u32,
            v1: bool,
            seed: u32,
            (from, to) in (0usize..64, 0usize..64),
            flip: prop::sample::Index,
        ) {
            let fill = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8;
            let plaintext: Vec<u8> = (0..(from + len) as u32).map(fill).collect();
            let plaintext = &plaintext[from..];
            let header = SendHeader::new((!v1).then_some(seed & 0xff_ffff), 3);
            for cipher in ciphers() {
                let key = direction(&key[..cipher.key_len()], &implicit_iv);
                let mut expected: Option<Vec<u8>> = None;
                for aead in aeads() {
                    let mut seal_key = SealingKey::new(aead, cipher, &key).unwrap();
                    let mut sealed = vec![0x55; to + header.overhead() + len + 64];
                    let end = sealed.len() - 64;
                    prop_assert!(seal_key.seal(&header, id, plaintext, &mut sealed[to..end]));
                    prop_assert!(sealed[..to].iter().chain(&sealed[end..]).all(|&byte| byte == 0x55), "wrote beyond");
                    let packet = &mut sealed[to..end];
                    prop_assert_eq!(&*packet, expected.get_or_insert_with(|| packet.to_vec()).as_slice());

                    let mut open_key = OpeningKey::new(aead, cipher, &key).unwrap();
                    prop_assert_eq!(opened(&mut open_key, v1, id, packet, from), Some(plaintext.to_vec()));
                    prop_assert_eq!(opened(&mut open_key, v1, id ^ 1, packet, from), None, "another nonce");
                    // The opcode byte of P_DATA_V1 is not authenticated.
                    let bit = usize::from(v1) * 8 + flip.index((packet.len() - usize::from(v1)) * 8);
                    packet[bit / 8] ^= 1 << (bit % 8);
                    prop_assert_eq!(opened(&mut open_key, v1, id, packet, from), None, "{} bit {}", aead.info(), bit);
                }
            }
        }
    }

    /// Opens a packet, even one without a byte in it, into memory at this offset, and looks whether bytes around it were changed.
    fn opened(key: &mut OpeningKey, v1: bool, id: u32, packet: &[u8], offset: usize) -> Option<Vec<u8>> {
        let (aad_start, tag_start) = if v1 { (1, 5) } else { (0, 8) };
        let (head, rest) = packet.split_at(tag_start);
        let (tag, ciphertext) = rest.split_first_chunk().unwrap();
        let mut out = vec![0xaa; offset + ciphertext.len() + 64];
        let end = out.len() - 64;
        let genuine = key.open(id, &Parts { aad: &head[aad_start..], tag, ciphertext }, &mut out[offset..end]);
        assert!(out[..offset].iter().chain(&out[end..]).all(|&byte| byte == 0xaa), "wrote beyond");
        genuine.then(|| out[offset..end].to_vec())
    }
}
