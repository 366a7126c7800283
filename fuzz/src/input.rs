//! The rest of an input, taken from its front. What is cut short gives `None`, which ends a series of operations.

pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// Little-endian, so that small numbers are easy to write by hand.
    pub(crate) fn number(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    /// A length byte and so many bytes, or as many as are left.
    pub(crate) fn some(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        Some(bytes)
    }
}
