//! AES-GCM of Intel's Multi-Buffer Crypto for IPsec library (`libIPSec_MB.so.1`, Debian's `libipsec-mb1`), loaded at run time
//! where the host has it: its direct functions, called through safe types. Whether it is used at all is decided in
//! [`aead`](crate::datachannel::aead).
//!
//! The functions are found by name and processor level, without the library's headers. Their prototypes are the public ones of
//! `intel-ipsec-mb.h`, the same in all 1.x versions: `aes_gcm_pre_*` expands a key into `struct gcm_key_data`, `aes_gcm_enc_*` and
//! `aes_gcm_dec_*` do one message each with `struct gcm_context_data` as scratch memory; the latter only compute the tag.
//! Both structures are opaque here: they get more room than any version is known to need, and not much more, because a gateway
//! has thousands of keys. Nothing is used before it has kept to that room and reproduced known answers, and the library is
//! never unloaded.

use std::ffi::c_void;
use std::fmt;
use std::sync::OnceLock;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

/// The library's name for the dynamic linker. Another major version has another one.
pub const SONAME: &str = "libIPSec_MB.so.1";
/// Bytes of a tag.
pub const TAG_LEN: usize = 16;
/// A 12-byte nonce and four zero bytes: a whole register, so that the library's load of it need not wait for two stores.
pub type PaddedNonce = u128;

/// Key lengths in bytes, and the same as the library's function names carry them.
const KEY_SIZES: [(usize, &str); 3] = [(16, "128"), (24, "192"), (32, "256")];

/// Why the library is not used; each a sentence that can stand behind "ipsec-mb is not used:".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The library is for x86-64 only.
    #[error("it exists for x86-64 only")]
    Platform,
    /// The processor lacks even what its oldest functions need.
    #[error("this processor lacks AES-NI, PCLMULQDQ or SSE4.2")]
    Processor,
    /// The dynamic linker did not find or not accept it: what it said.
    #[error("{SONAME} (Debian's libipsec-mb1) cannot be loaded: {0}")]
    Missing(String),
    /// Another version than 1.x.
    #[error("{SONAME} says that it is version {0}, and only 1.x is known")]
    Version(Version),
    /// A function is not there: its name.
    #[error("{SONAME} does not export {0}")]
    Symbol(String),
    /// A known answer did not come out: of which function.
    #[error("{SONAME} fails its known answers in {0}")]
    WrongAnswer(String),
}

/// A version as `imb_get_version` gives it: major, minor and patch in one byte each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version(u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0 >> 16, self.0 >> 8 & 0xff, self.0 & 0xff)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// For which processors a set of functions was written, as their names carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// AVX-512 with vector AES and carry-less multiplication (Ice Lake, Zen 4 and later).
    VaesAvx512,
    /// AVX-512 (Skylake server).
    Avx512,
    /// AVX2.
    AvxGen4,
    /// AVX.
    AvxGen2,
    /// SSE4.2 with AES-NI.
    Sse,
}

impl Level {
    /// All, best first.
    pub const ALL: [Level; 5] = [Level::VaesAvx512, Level::Avx512, Level::AvxGen4, Level::AvxGen2, Level::Sse];

    /// The end of the functions' names.
    pub fn name(self) -> &'static str {
        match self {
            Level::VaesAvx512 => "vaes_avx512",
            Level::Avx512 => "avx512",
            Level::AvxGen4 => "avx_gen4",
            Level::AvxGen2 => "avx_gen2",
            Level::Sse => "sse",
        }
    }

    /// Whether this processor, and the kernel, can run the functions of this level. It asks for all that the library itself
    /// asks for before it chooses the level, not only for what its AES-GCM is known to use.
    #[cfg(target_arch = "x86_64")]
    pub fn is_supported(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Level::Sse => has!("sse4.2") && has!("aes") && has!("pclmulqdq"),
            Level::AvxGen2 => Level::Sse.is_supported() && has!("avx"),
            Level::AvxGen4 => Level::AvxGen2.is_supported() && has!("avx2") && has!("bmi1") && has!("bmi2"),
            Level::Avx512 => {
                let foundation = has!("avx512f") && has!("avx512cd");
                Level::AvxGen4.is_supported() && foundation && has!("avx512vl") && has!("avx512bw") && has!("avx512dq")
            }
            Level::VaesAvx512 => {
                let vectors = has!("vaes") && has!("vpclmulqdq");
                Level::Avx512.is_supported() && vectors && has!("gfni") && has!("avx512ifma")
            }
        }
    }

    /// Whether this processor can run the functions of this level: never.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_supported(self) -> bool {
        false
    }

    /// The best one that this processor supports.
    pub fn best() -> Option<Level> {
        Level::ALL.into_iter().find(|level| level.is_supported())
    }
}

/// The library's functions for this processor, loaded and proven.
#[derive(Clone, Copy, Debug)]
pub struct IpsecMb {
    version: Version,
    level: Level,
    /// In the order of [`KEY_SIZES`].
    sizes: [Functions; 3],
}

impl IpsecMb {
    /// The host's library at this processor's best level. It is loaded and proven by the first call, for the process's lifetime;
    /// so is a failure.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load() -> Result<IpsecMb, Unusable> {
        static LOADED: OnceLock<Result<IpsecMb, Unusable>> = OnceLock::new();
        LOADED.get_or_init(|| IpsecMb::load_at(Level::best())).clone()
    }

    /// The host's library at this level, which must be [supported](Level::is_supported). For the process's lifetime.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load_at(level: Option<Level>) -> Result<IpsecMb, Unusable> {
        if cfg!(not(target_arch = "x86_64")) {
            return Err(Unusable::Platform);
        }
        IpsecMb::from_symbols(level, Shared::open)
    }

    fn from_symbols<S: Symbols>(
        level: Option<Level>,
        open: impl FnOnce() -> Result<S, Unusable>,
    ) -> Result<IpsecMb, Unusable> {
        let level = level.filter(|level| level.is_supported()).ok_or(Unusable::Processor)?;
        let symbols = open()?;
        // SAFETY: the name has had this prototype since the library has versions (0.51).
        let get_version =
            unsafe { std::mem::transmute::<*const c_void, GetVersion>(find(&symbols, "imb_get_version")?) };
        // SAFETY: it takes nothing and reads a constant.
        let version = Version(unsafe { get_version() });
        if version.0 >> 16 != 1 {
            return Err(Unusable::Version(version));
        }
        let [a, b, c] = KEY_SIZES.map(|(_, bits)| Functions::find(&symbols, bits, level));
        let library = IpsecMb { version, level, sizes: [a?, b?, c?] };
        for answer in &KNOWN_ANSWERS {
            if !answer.comes_out(&library) {
                return Err(Unusable::WrongAnswer(format!("AES-{}-GCM, {}", answer.key_len * 8, level.name())));
            }
        }
        Ok(library)
    }

    /// What the library says that it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Which of its functions are used.
    pub fn level(&self) -> Level {
        self.level
    }

    fn functions(&self, key_len: usize) -> Option<&Functions> {
        let at = KEY_SIZES.iter().position(|&(len, _)| len == key_len)?;
        self.sizes.get(at)
    }
}

/// `IMB_DLL_EXPORT unsigned imb_get_version(void)`
type GetVersion = unsafe extern "C" fn() -> u32;
/// `void aes_gcm_pre_NNN(const void *key, struct gcm_key_data *key_data)`
type Expand = unsafe extern "C" fn(*const u8, *mut Expanded);
/// `void aes_gcm_enc_NNN(const struct gcm_key_data *key_data, struct gcm_context_data *context_data, uint8_t *out,
/// uint8_t const *in, uint64_t len, const uint8_t *iv, uint8_t const *aad, uint64_t aad_len, uint8_t *auth_tag,
/// uint64_t auth_tag_len)`, and `aes_gcm_dec_NNN` likewise.
type Crypt = unsafe extern "C" fn(
    *const Expanded,
    *mut Context,
    *mut u8,
    *const u8,
    u64,
    *const u8,
    *const u8,
    u64,
    *mut u8,
    u64,
);

/// What one key size needs.
#[derive(Clone, Copy, Debug)]
struct Functions {
    expand: Expand,
    encrypt: Crypt,
    decrypt: Crypt,
}

impl Functions {
    fn find(symbols: &impl Symbols, bits: &str, level: Level) -> Result<Functions, Unusable> {
        let address = |what: &str| find(symbols, &format!("aes_gcm_{what}_{bits}_{}", level.name()));
        let (expand, encrypt, decrypt) = (address("pre")?, address("enc")?, address("dec")?);
        // SAFETY: `Symbols` promises functions of these prototypes behind these names, valid for ever; a data pointer and a
        // function pointer are the same on x86-64, and these are not null.
        unsafe {
            Ok(Functions {
                expand: std::mem::transmute::<*const c_void, Expand>(expand),
                encrypt: std::mem::transmute::<*const c_void, Crypt>(encrypt),
                decrypt: std::mem::transmute::<*const c_void, Crypt>(decrypt),
            })
        }
    }
}

/// Where functions come from.
///
/// # Safety
/// What stands behind a name has the prototype that `intel-ipsec-mb.h` of version 1.x gives it, and stays for the process's lifetime.
unsafe trait Symbols {
    /// The address behind a name.
    fn address(&self, name: &str) -> Option<*const c_void>;
}

fn find(symbols: &impl Symbols, name: &str) -> Result<*const c_void, Unusable> {
    let address = symbols.address(name).filter(|address| !address.is_null());
    address.ok_or_else(|| Unusable::Symbol(name.to_owned()))
}

/// The host's library. It is never closed: function pointers into it live as long as the process.
struct Shared(std::mem::ManuallyDrop<libloading::Library>);

impl Shared {
    fn open() -> Result<Shared, Unusable> {
        // SAFETY: the name has no slash, so only the system's directories are searched (and LD_LIBRARY_PATH, which the linker
        // ignores where we have more rights than our caller). The library's constructors only probe the processor.
        let library = unsafe { libloading::Library::new(SONAME) };
        match library {
            Ok(library) => Ok(Shared(std::mem::ManuallyDrop::new(library))),
            Err(error) => Err(Unusable::Missing(error.to_string())),
        }
    }
}

// SAFETY: the version's functions have these prototypes in every 1.x header, callers use nothing before the version was
// checked but `imb_get_version` itself, and the library is never closed.
unsafe impl Symbols for Shared {
    fn address(&self, name: &str) -> Option<*const c_void> {
        // SAFETY: only the address is taken; nothing is read or called through it here.
        let symbol = unsafe { self.0.get::<*const c_void>(name) };
        symbol.ok().map(|symbol| *symbol)
    }
}

/// `struct gcm_key_data`: round keys and powers of the hash key, 1,008 bytes in version 1.3.
#[repr(C, align(64))]
struct Expanded([u8; 1280]);

/// `struct gcm_context_data`: 88 bytes in version 1.3.
#[repr(C, align(64))]
struct Context([u8; 192]);

/// Both, in one place: the scratch memory first, so that its stores and the loads of the key's start do not fall on the same
/// offset of a page.
#[repr(C)]
struct Tables {
    context: Context,
    expanded: Expanded,
}

/// [`Tables`] with much room behind either part: here a version may show that it needs more, before any key gets less.
#[repr(C)]
struct Proof {
    context: Context,
    behind_context: [u8; 4096],
    expanded: Expanded,
    behind_expanded: [u8; 4096],
}

impl Proof {
    /// What stands in the room behind. A function that writes there writes key material or counts, not this all along.
    const UNTOUCHED: u8 = 0xa5;

    /// Whether the functions, with a key of their size, write nothing behind the structures, however long the message is.
    fn holds(functions: &Functions, key: &[u8]) -> bool {
        let behind = [Proof::UNTOUCHED; 4096];
        let mut proof = Box::new(Proof {
            context: Context([0; 192]),
            behind_context: behind,
            expanded: Expanded([0; 1280]),
            behind_expanded: behind,
        });
        let all = &raw mut *proof;
        let (from, mut to, mut tag, nonce) = ([7_u8; 2048], [0_u8; 2048], [0_u8; TAG_LEN], [0_u8; 16]);
        // SAFETY: the caller gives a key of the functions' size. The pointers are derived from one to the whole, so that what a
        // function writes behind a structure, which has 4,096 bytes more, is within what it may write. Messages of at most
        // 2,048 bytes lie within `from` and `to`; otherwise as in `GcmKey::crypt`.
        unsafe {
            let (context, expanded) = (&raw mut (*all).context, &raw mut (*all).expanded);
            (functions.expand)(key.as_ptr(), expanded);
            for crypt in [functions.encrypt, functions.decrypt] {
                for len in [0, 1, 60, 256, 1_400, 2_048] {
                    let (to, from, tag) = (to.as_mut_ptr(), from.as_ptr(), tag.as_mut_ptr());
                    crypt(expanded, context, to, from, len, nonce.as_ptr(), from, 8, tag, TAG_LEN as u64);
                }
            }
        }
        proof.behind_context == behind && proof.behind_expanded == behind
    }
}

/// One expanded key and its scratch memory. Wiped on drop; never moved, so that no copy stays behind.
pub struct GcmKey {
    tables: Box<Tables>,
    encrypt: Crypt,
    decrypt: Crypt,
}

impl GcmKey {
    /// Expands a key of 16, 24 or 32 bytes; `None` for any other length.
    pub fn new(library: &IpsecMb, key: &[u8]) -> Option<GcmKey> {
        let functions = library.functions(key.len())?;
        let mut tables = Box::new(Tables { context: Context([0; 192]), expanded: Expanded([0; 1280]) });
        // SAFETY: the function reads as many bytes of the key as its name says, which is the slice's length, and writes a
        // `gcm_key_data` (1,008 bytes; that this version's is not larger than 1,280 is proven when it is loaded) that is
        // aligned as the header demands (64).
        unsafe { (functions.expand)(key.as_ptr(), &mut tables.expanded) };
        Some(GcmKey { tables, encrypt: functions.encrypt, decrypt: functions.decrypt })
    }

    /// Encrypts `plaintext` into `ciphertext` and writes the tag. False when the two differ in length: nothing is done then.
    #[inline]
    pub fn seal(
        &mut self,
        nonce: PaddedNonce,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool {
        plaintext.len() == ciphertext.len() && {
            self.crypt(self.encrypt, nonce, aad, plaintext, ciphertext, tag);
            true
        }
    }

    /// Decrypts `ciphertext` into `plaintext` and compares the tag in constant time. False when it differs: `plaintext` is wiped
    /// then. False also when the lengths differ: nothing is done then.
    #[inline]
    pub fn open(
        &mut self,
        nonce: PaddedNonce,
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> bool {
        if plaintext.len() != ciphertext.len() {
            return false;
        }
        let mut computed = [0; TAG_LEN];
        self.crypt(self.decrypt, nonce, aad, ciphertext, plaintext, &mut computed);
        let genuine = equal(&computed, tag);
        if !genuine {
            wipe(plaintext);
        }
        genuine
    }

    /// `from` and `to` are equally long.
    #[inline]
    fn crypt(
        &mut self,
        function: Crypt,
        nonce: PaddedNonce,
        aad: &[u8],
        from: &[u8],
        to: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) {
        debug_assert_eq!(from.len(), to.len());
        let nonce = nonce.to_le();
        // SAFETY: `function` belongs to the size of the key that `expand` put into the tables, both are aligned to 64 bytes and
        // not smaller than the structures they stand for (`Proof`). It reads `from.len()` bytes of `from`, `aad.len()` of `aad` and 12 of
        // the 16 of the nonce; it writes `from.len()` bytes, which is the length of `to`, 16 of the tag, and its context. The
        // borrows keep what is written apart from what is read. It keeps no pointer, and restores what the calling
        // convention says.
        unsafe {
            function(
                &self.tables.expanded,
                &mut self.tables.context,
                to.as_mut_ptr(),
                from.as_ptr(),
                from.len() as u64,
                (&raw const nonce).cast(),
                aad.as_ptr(),
                aad.len() as u64,
                tag.as_mut_ptr(),
                TAG_LEN as u64,
            );
        }
    }
}

/// In constant time. One comparison for all bytes: one for each takes as long as the decryption of many of them.
#[inline]
fn equal(one: &[u8; TAG_LEN], two: &[u8; TAG_LEN]) -> bool {
    let difference = u128::from_ne_bytes(*one) ^ u128::from_ne_bytes(*two);
    let folded = difference as u64 | (difference >> 64) as u64;
    folded.ct_eq(&0).into()
}

#[cold]
fn wipe(plaintext: &mut [u8]) {
    plaintext.zeroize();
}

impl Drop for GcmKey {
    fn drop(&mut self) {
        self.tables.context.0.zeroize();
        self.tables.expanded.0.zeroize();
    }
}

impl fmt::Debug for GcmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("GcmKey")
    }
}

/// Test cases 4, 10 and 16 of "The Galois/Counter Mode of Operation" (McGrew and Viega), one for each key size.
struct KnownAnswer {
    /// So many bytes of [`KnownAnswer::KEY`].
    key_len: usize,
    ciphertext: [u8; 60],
    tag: u128,
}

impl KnownAnswer {
    const KEY: u128 = 0xfeff_e992_8665_731c_6d6a_8f94_6730_8308;
    const NONCE: u128 = 0xcafe_babe_face_dbad_deca_f888_0000_0000;
    const AAD: [u8; 20] = [
        0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xfe, 0xed, 0xfa, 0xce, 0xde, 0xad, 0xbe, 0xef, 0xab, 0xad,
        0xda, 0xd2,
    ];
    const PLAINTEXT: [u8; 60] = [
        0xd9, 0x31, 0x32, 0x25, 0xf8, 0x84, 0x06, 0xe5, 0xa5, 0x59, 0x09, 0xc5, 0xaf, 0xf5, 0x26, 0x9a, 0x86, 0xa7,
        0xa9, 0x53, 0x15, 0x34, 0xf7, 0xda, 0x2e, 0x4c, 0x30, 0x3d, 0x8a, 0x31, 0x8a, 0x72, 0x1c, 0x3c, 0x0c, 0x95,
        0x95, 0x68, 0x09, 0x53, 0x2f, 0xcf, 0x0e, 0x24, 0x49, 0xa6, 0xb5, 0x25, 0xb1, 0x6a, 0xed, 0xf5, 0xaa, 0x0d,
        0xe6, 0x57, 0xba, 0x63, 0x7b, 0x39,
    ];

    fn key(&self) -> Vec<u8> {
        KnownAnswer::KEY.to_be_bytes().repeat(2)[..self.key_len].to_vec()
    }

    /// The library keeps to the room that keys have, seals and opens it, and refuses it with another tag.
    fn comes_out(&self, library: &IpsecMb) -> bool {
        // First of all: a function that fails this must not be called in any other place.
        if !library.functions(self.key_len).is_some_and(|functions| Proof::holds(functions, &self.key())) {
            return false;
        }
        let Some(mut key) = GcmKey::new(library, &self.key()) else {
            return false;
        };
        let nonce = KnownAnswer::NONCE.swap_bytes();
        let (aad, expected) = (&KnownAnswer::AAD, self.tag.to_be_bytes());
        let (mut sealed, mut tag, mut opened) = ([0; 60], [0; TAG_LEN], [0; 60]);
        let seals = key.seal(nonce, aad, &KnownAnswer::PLAINTEXT, &mut sealed, &mut tag)
            && sealed == self.ciphertext
            && tag == expected;
        let opens = key.open(nonce, aad, &self.ciphertext, &expected, &mut opened) && opened == KnownAnswer::PLAINTEXT;
        let forged = (self.tag ^ 1).to_be_bytes();
        let refuses = !key.open(nonce, aad, &self.ciphertext, &forged, &mut opened);
        seals && opens && refuses
    }
}

const KNOWN_ANSWERS: [KnownAnswer; 3] = [
    KnownAnswer {
        key_len: 16,
        ciphertext: [
            0x42, 0x83, 0x1e, 0xc2, 0x21, 0x77, 0x74, 0x24, 0x4b, 0x72, 0x21, 0xb7, 0x84, 0xd0, 0xd4, 0x9c, 0xe3, 0xaa,
            0x21, 0x2f, 0x2c, 0x02, 0xa4, 0xe0, 0x35, 0xc1, 0x7e, 0x23, 0x29, 0xac, 0xa1, 0x2e, 0x21, 0xd5, 0x14, 0xb2,
            0x54, 0x66, 0x93, 0x1c, 0x7d, 0x8f, 0x6a, 0x5a, 0xac, 0x84, 0xaa, 0x05, 0x1b, 0xa3, 0x0b, 0x39, 0x6a, 0x0a,
            0xac, 0x97, 0x3d, 0x58, 0xe0, 0x91,
        ],
        tag: 0x5bc9_4fbc_3221_a5db_94fa_e95a_e712_1a47,
    },
    KnownAnswer {
        key_len: 24,
        ciphertext: [
            0x39, 0x80, 0xca, 0x0b, 0x3c, 0x00, 0xe8, 0x41, 0xeb, 0x06, 0xfa, 0xc4, 0x87, 0x2a, 0x27, 0x57, 0x85, 0x9e,
            0x1c, 0xea, 0xa6, 0xef, 0xd9, 0x84, 0x62, 0x85, 0x93, 0xb4, 0x0c, 0xa1, 0xe1, 0x9c, 0x7d, 0x77, 0x3d, 0x00,
            0xc1, 0x44, 0xc5, 0x25, 0xac, 0x61, 0x9d, 0x18, 0xc8, 0x4a, 0x3f, 0x47, 0x18, 0xe2, 0x44, 0x8b, 0x2f, 0xe3,
            0x24, 0xd9, 0xcc, 0xda, 0x27, 0x10,
        ],
        tag: 0x2519_498e_80f1_478f_37ba_55bd_6d27_618c,
    },
    KnownAnswer {
        key_len: 32,
        ciphertext: [
            0x52, 0x2d, 0xc1, 0xf0, 0x99, 0x56, 0x7d, 0x07, 0xf4, 0x7f, 0x37, 0xa3, 0x2a, 0x84, 0x42, 0x7d, 0x64, 0x3a,
            0x8c, 0xdc, 0xbf, 0xe5, 0xc0, 0xc9, 0x75, 0x98, 0xa2, 0xbd, 0x25, 0x55, 0xd1, 0xaa, 0x8c, 0xb0, 0x8e, 0x48,
            0x59, 0x0d, 0xbb, 0x3d, 0xa7, 0xb0, 0x8b, 0x10, 0x56, 0x82, 0x88, 0x38, 0xc5, 0xf6, 0x1e, 0x63, 0x93, 0xba,
            0x7a, 0x0a, 0xbc, 0xc9, 0xf6, 0x62,
        ],
        tag: 0x76fc_6ece_0f4e_1768_cddf_8853_bb2d_551b,
    },
];

#[cfg(test)]
#[cfg(target_arch = "x86_64")]
mod tests {
    use super::*;

    /// The host's library with one thing wrong.
    struct Spoiled {
        library: Shared,
        name: &'static str,
        instead: Option<*const c_void>,
    }

    // SAFETY: what replaces a function has its prototype (see the tests); everything else is the library's own.
    unsafe impl Symbols for Spoiled {
        fn address(&self, name: &str) -> Option<*const c_void> {
            if name == self.name { self.instead } else { self.library.address(name) }
        }
    }

    fn spoiled(name: &'static str, instead: Option<*const c_void>) -> Result<IpsecMb, Unusable> {
        IpsecMb::from_symbols(Some(Level::Sse), || Ok(Spoiled { library: Shared::open()?, name, instead }))
    }

    extern "C" fn version_0_55() -> u32 {
        0x3700
    }

    extern "C" fn version_2() -> u32 {
        0x2_0000
    }

    extern "C" fn expands_nothing(_: *const u8, _: *mut Expanded) {}

    #[allow(clippy::too_many_arguments)]
    extern "C" fn does_nothing(
        _: *const Expanded,
        _: *mut Context,
        _: *mut u8,
        _: *const u8,
        _: u64,
        _: *const u8,
        _: *const u8,
        _: u64,
        _: *mut u8,
        _: u64,
    ) {
    }

    extern "C" fn expands_too_much(key: *const u8, expanded: *mut Expanded) {
        let library = IpsecMb::load_at(Some(Level::Sse)).unwrap();
        // SAFETY: the arguments are those of the function whose place this one takes; behind the structure is room in `Proof`,
        // and a function that writes there is called nowhere else.
        unsafe {
            (library.sizes[2].expand)(key, expanded);
            expanded.add(1).cast::<u8>().write(1);
        }
    }

    #[allow(clippy::too_many_arguments)]
    extern "C" fn needs_much_scratch_memory(
        expanded: *const Expanded,
        context: *mut Context,
        to: *mut u8,
        from: *const u8,
        len: u64,
        nonce: *const u8,
        aad: *const u8,
        aad_len: u64,
        tag: *mut u8,
        tag_len: u64,
    ) {
        let library = IpsecMb::load_at(Some(Level::Sse)).unwrap();
        // SAFETY: as above.
        unsafe {
            (library.sizes[2].decrypt)(expanded, context, to, from, len, nonce, aad, aad_len, tag, tag_len);
            // Only for long messages.
            if len > 1_000 {
                context.add(1).cast::<u8>().write(1);
            }
        }
    }

    #[test]
    fn the_hosts_library_is_usable_at_every_level_of_this_processor() {
        let library = IpsecMb::load().expect("install libipsec-mb1 (scripts/ensure-tools does)");
        assert!(library.version().to_string().starts_with("1."), "{}", library.version());
        assert_eq!(Some(library.level()), Level::best());
        for level in Level::ALL {
            let loaded = IpsecMb::load_at(Some(level)).map(|library| library.level());
            assert_eq!(loaded, if level.is_supported() { Ok(level) } else { Err(Unusable::Processor) });
        }
        assert_eq!(IpsecMb::load_at(None).unwrap_err(), Unusable::Processor);
    }

    #[test]
    fn a_library_that_is_missing_is_not_used() {
        let missing = Unusable::Missing("cannot open shared object file".into());
        let loaded = IpsecMb::from_symbols(Some(Level::Sse), || Err::<Shared, _>(missing.clone()));
        assert_eq!(loaded.unwrap_err(), missing);
        assert!(missing.to_string().contains("libipsec-mb1"), "it says what to install");
    }

    #[test]
    fn another_version_is_not_used() {
        for (function, shown) in [(version_0_55 as *const c_void, "0.55.0"), (version_2 as *const c_void, "2.0.0")] {
            let Unusable::Version(version) = spoiled("imb_get_version", Some(function)).unwrap_err() else {
                panic!("refused for another reason");
            };
            assert_eq!(version.to_string(), shown);
        }
    }

    #[test]
    fn a_library_that_lacks_a_function_is_not_used() {
        for name in ["imb_get_version", "aes_gcm_pre_128_sse", "aes_gcm_enc_192_sse", "aes_gcm_dec_256_sse"] {
            for address in [None, Some(std::ptr::null())] {
                assert_eq!(spoiled(name, address).unwrap_err(), Unusable::Symbol(name.to_owned()));
            }
        }
    }

    #[test]
    fn a_library_that_fails_a_known_answer_is_not_used() {
        for (name, function, bits) in [
            ("aes_gcm_pre_128_sse", expands_nothing as *const c_void, 128),
            ("aes_gcm_enc_192_sse", does_nothing as *const c_void, 192),
            ("aes_gcm_dec_256_sse", does_nothing as *const c_void, 256),
        ] {
            let why = spoiled(name, Some(function)).unwrap_err();
            assert_eq!(why, Unusable::WrongAnswer(format!("AES-{bits}-GCM, sse")), "{name}");
        }
    }

    #[test]
    fn a_library_that_needs_more_room_than_keys_have_is_not_used() {
        for (name, function) in [
            ("aes_gcm_pre_256_sse", expands_too_much as *const c_void),
            ("aes_gcm_dec_256_sse", needs_much_scratch_memory as *const c_void),
        ] {
            let why = spoiled(name, Some(function)).unwrap_err();
            assert_eq!(why, Unusable::WrongAnswer("AES-256-GCM, sse".into()), "{name}");
        }
    }

    #[test]
    fn keys_of_other_lengths_are_refused() {
        let library = IpsecMb::load().unwrap();
        for len in 0..40 {
            assert_eq!(GcmKey::new(&library, &vec![1; len]).is_some(), [16, 24, 32].contains(&len), "{len}");
        }
    }

    #[test]
    fn tables_are_aligned() {
        let key = GcmKey::new(&IpsecMb::load().unwrap(), &[1; 16]).unwrap();
        assert_eq!((&raw const key.tables.context).addr() % 64, 0);
        assert_eq!((&raw const key.tables.expanded).addr() % 64, 0);
    }

    #[test]
    fn every_function_does_what_the_known_answers_say_and_nothing_for_unequal_lengths() {
        let library = IpsecMb::load().unwrap();
        for answer in &KNOWN_ANSWERS {
            assert!(answer.comes_out(&library));
            let mut key = GcmKey::new(&library, &answer.key()).unwrap();
            let (mut tag, mut out) = ([7; TAG_LEN], [7; 60]);
            assert!(!key.seal(0, &[], &[1; 59], &mut out, &mut tag));
            assert!(!key.seal(0, &[], &[1; 61], &mut out, &mut tag));
            assert!(!key.open(0, &[], &[1; 59], &[0; TAG_LEN], &mut out));
            assert_eq!((tag, out), ([7; TAG_LEN], [7; 60]));
            let mut wrong = KnownAnswer { tag: answer.tag, ..KNOWN_ANSWERS[0] };
            wrong.key_len = answer.key_len;
            wrong.ciphertext = answer.ciphertext;
            wrong.ciphertext[59] ^= 1;
            assert!(!wrong.comes_out(&library));
        }
    }

    #[test]
    fn a_forged_packet_leaves_no_plaintext_behind() {
        let mut key = GcmKey::new(&IpsecMb::load().unwrap(), &[1; 32]).unwrap();
        let mut out = [7; 60];
        assert!(!key.open(0, &[], &[5; 60], &[0; TAG_LEN], &mut out));
        assert_eq!(out, [0; 60]);
    }
}
