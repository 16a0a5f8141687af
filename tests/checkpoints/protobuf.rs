//! ONNX models put together field by field, so that tests can break each of them. Shares nothing with the crate's messages.

/// A message under construction, as its bytes.
#[derive(Clone, Default)]
pub struct Message(pub Vec<u8>);

fn varint(mut n: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while n >= 128 {
        out.push(n as u8 | 128);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

impl Message {
    pub fn int(mut self, field: u64, value: i64) -> Self {
        self.0.extend(varint(field << 3));
        self.0.extend(varint(value as u64));
        self
    }

    pub fn bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.0.extend(varint(field << 3 | 2));
        self.0.extend(varint(value.len() as u64));
        self.0.extend(value);
        self
    }

    pub fn text(self, field: u64, value: &str) -> Self {
        self.bytes(field, value.as_bytes())
    }

    pub fn message(self, field: u64, value: Message) -> Self {
        self.bytes(field, &value.0)
    }

    /// Integers as a packed field.
    pub fn ints(self, field: u64, values: &[i64]) -> Self {
        let all: Vec<u8> = values.iter().flat_map(|&v| varint(v as u64)).collect();
        self.bytes(field, &all)
    }
}

/// Key and value.
pub fn pair(key: &str, value: &str) -> Message {
    Message::default().text(1, key).text(2, value)
}

/// Name, type and shape of a tensor.
pub fn tensor(name: &str, kind: i64, dims: &[i64]) -> Message {
    let start = dims.iter().fold(Message::default(), |m, &n| m.int(1, n));
    start.int(2, kind).text(8, name)
}

/// A tensor with its bytes in it.
pub fn raw(name: &str, kind: i64, dims: &[i64], bytes: &[u8]) -> Message {
    tensor(name, kind, dims).bytes(9, bytes)
}

/// A tensor whose bytes are in another file.
pub fn external(name: &str, kind: i64, dims: &[i64], place: &[(&str, &str)]) -> Message {
    let start = tensor(name, kind, dims);
    place.iter().fold(start, |m, (key, value)| m.message(13, pair(key, value))).int(14, 1)
}

/// A node of a domain with integers as attributes.
pub fn node(operator: &str, domain: &str, inputs: &[&str], attributes: &[(&str, i64)]) -> Message {
    let start = inputs.iter().fold(Message::default(), |m, name| m.text(1, name));
    let start = start.text(2, "y").text(4, operator);
    let attribute = |m: Message, (name, value): &(&str, i64)| {
        m.message(5, Message::default().text(1, name).int(3, *value).int(20, 2))
    };
    attributes.iter().fold(start, attribute).text(7, domain)
}

/// A MatMulNBits node.
pub fn matmul(inputs: &[&str], n: i64, k: i64, bits: i64, block_size: i64) -> Message {
    let attributes = [("K", k), ("N", n), ("bits", bits), ("block_size", block_size)];
    node("MatMulNBits", "com.microsoft", inputs, &attributes)
}

/// A model of tensors and nodes by another producer.
pub fn model(tensors: &[Message], nodes: &[Message]) -> Message {
    let graph = nodes.iter().fold(Message::default(), |m, node| m.message(1, node.clone())).text(2, "graph");
    let graph = tensors.iter().fold(graph, |m, tensor| m.message(5, tensor.clone()));
    let opset = Message::default().text(1, "").int(2, 21);
    Message::default().int(1, 10).text(2, "a test").text(3, "1.2").message(7, graph).message(8, opset)
}
