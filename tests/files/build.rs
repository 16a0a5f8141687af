//! GGUF bytes put together field by field, so that tests can break each of them. Shares nothing with the crate's writer.

/// Bytes under construction.
#[derive(Clone, Default)]
pub struct Gguf {
    pub version: u32,
    pub tensors: Vec<(String, Vec<u64>, u32, u64)>,
    pub pairs: Vec<(String, u32, Vec<u8>)>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

pub fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// An array value of GGUF: kind, count, the bytes of the elements.
pub fn array(kind: u32, count: u64, bytes: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &count.to_le_bytes(), bytes].concat()
}

impl Gguf {
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, ..Self::default() }
    }

    pub fn pair(mut self, key: &str, kind: u32, value: impl Into<Vec<u8>>) -> Self {
        self.pairs.push((key.into(), kind, value.into()));
        self
    }

    pub fn text(self, key: &str, text: &str) -> Self {
        self.pair(key, 8, string(text))
    }

    pub fn u32(self, key: &str, n: u32) -> Self {
        self.pair(key, 4, n.to_le_bytes())
    }

    /// A tensor whose data follows what is there, padded. `dims`: innermost first.
    pub fn tensor(mut self, name: &str, dims: &[u64], kind: u32, data: &[u8]) -> Self {
        self.tensors.push((name.into(), dims.into(), kind, self.data.len() as u64));
        self.data.extend(data);
        self.data.resize(self.data.len().next_multiple_of(self.alignment), 0);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.pairs.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.pairs {
            out.extend(string(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for (name, dims, kind, offset) in &self.tensors {
            out.extend(string(name));
            out.extend((dims.len() as u32).to_le_bytes());
            dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }
}
