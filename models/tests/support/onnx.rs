//! A writer of small ONNX files, sound or not.

/// Values of an initializer.
#[derive(Clone)]
pub enum Data {
    F32(Vec<f32>),
    F16(Vec<u16>),
    Bf16(Vec<u16>),
    I64(Vec<i64>),
    /// All fields of the tensor but its name and dimensions, as bytes.
    Fields(Vec<u8>),
}

/// A node: operator, inputs, outputs, attributes.
struct Node {
    op: &'static str,
    inputs: Vec<String>,
    outputs: Vec<String>,
    attributes: Vec<(&'static str, Attribute)>,
    domain: &'static str,
}

pub enum Attribute {
    Int(i64),
    Ints(Vec<i64>),
    Text(&'static str),
    Float(f32),
    /// All fields but the name, as bytes.
    Fields(Vec<u8>),
}

/// A model in the making.
pub struct File {
    nodes: Vec<Node>,
    tensors: Vec<(String, Vec<u64>, Data)>,
    /// Version of the form.
    pub ir: u64,
    /// Version of the operators; `None` for a file that does not say.
    pub opset: Option<u64>,
    /// Inputs: name, type, dimensions (`None` for those that vary).
    pub inputs: Vec<(String, u64, Vec<Option<u64>>)>,
}

impl Default for File {
    fn default() -> Self {
        Self { nodes: Vec::new(), tensors: Vec::new(), ir: 8, opset: Some(17), inputs: Vec::new() }
    }
}

impl File {
    /// Adds a constant; returns its name.
    pub fn tensor(&mut self, dims: &[usize], data: Data) -> String {
        let name = format!("t{}", self.tensors.len());
        self.named(&name, dims, data)
    }

    /// As [`File::tensor`], with a name.
    pub fn named(&mut self, name: &str, dims: &[usize], data: Data) -> String {
        self.tensors.push((name.to_owned(), dims.iter().map(|&n| n as u64).collect(), data));
        name.to_owned()
    }

    /// Adds a node; returns the name of its output.
    pub fn node(
        &mut self,
        op: &'static str,
        inputs: &[&str],
        attributes: Vec<(&'static str, Attribute)>,
    ) -> String {
        let output = format!("v{}", self.nodes.len());
        self.node_to(op, inputs, &[&output], attributes);
        output
    }

    /// As [`File::node`], with the names of the outputs.
    pub fn node_to(
        &mut self,
        op: &'static str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<(&'static str, Attribute)>,
    ) {
        let [inputs, outputs] = [inputs, outputs].map(|l| l.iter().map(|name| (*name).to_owned()).collect());
        self.nodes.push(Node { op, inputs, outputs, attributes, domain: "" });
    }

    /// Gives the last node's operator to somebody else.
    pub fn domain(&mut self, domain: &'static str) {
        self.nodes.last_mut().expect("a node").domain = domain;
    }

    /// The file, with the input `x` of `rank` dimensions unless others were given.
    pub fn bytes(&self, rank: usize, outputs: &[&str]) -> Vec<u8> {
        let mut graph = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let mut out = Vec::new();
            node.inputs.iter().for_each(|name| field(&mut out, 1, name.as_bytes()));
            node.outputs.iter().for_each(|name| field(&mut out, 2, name.as_bytes()));
            field(&mut out, 3, format!("node v{index}").as_bytes());
            field(&mut out, 4, node.op.as_bytes());
            node.attributes.iter().for_each(|(name, value)| field(&mut out, 5, &attribute(name, value)));
            if !node.domain.is_empty() {
                field(&mut out, 7, node.domain.as_bytes());
            }
            field(&mut graph, 1, &out);
        }
        for (name, dims, data) in &self.tensors {
            let mut out = Vec::new();
            dims.iter().for_each(|&n| number(&mut out, 1, n));
            field(&mut out, 8, name.as_bytes());
            let (kind, raw): (u64, Vec<u8>) = match data {
                Data::F32(v) => (1, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
                Data::F16(v) => (10, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
                Data::Bf16(v) => (16, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
                Data::I64(v) => (7, v.iter().flat_map(|v| v.to_le_bytes()).collect()),
                Data::Fields(fields) => {
                    out.extend(fields);
                    field(&mut graph, 5, &out);
                    continue;
                }
            };
            number(&mut out, 2, kind);
            field(&mut out, 9, &raw);
            field(&mut graph, 5, &out);
        }
        if self.inputs.is_empty() {
            field(&mut graph, 11, &info("x", 1, &vec![None; rank]));
        }
        self.inputs.iter().for_each(|(name, kind, dims)| field(&mut graph, 11, &info(name, *kind, dims)));
        outputs.iter().for_each(|name| field(&mut graph, 12, &info(name, 1, &vec![None; rank])));
        let mut model = Vec::new();
        number(&mut model, 1, self.ir);
        field(&mut model, 7, &graph);
        if let Some(version) = self.opset {
            let mut standard = Vec::new();
            number(&mut standard, 2, version);
            field(&mut model, 8, &standard);
        }
        model
    }
}

fn attribute(name: &str, value: &Attribute) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 1, name.as_bytes());
    match value {
        Attribute::Int(v) => number(&mut out, 3, *v as u64),
        Attribute::Text(text) => field(&mut out, 4, text.as_bytes()),
        Attribute::Ints(list) => list.iter().for_each(|v| number(&mut out, 8, *v as u64)),
        Attribute::Float(v) => {
            out.push(2 << 3 | 5);
            out.extend(v.to_le_bytes());
        }
        Attribute::Fields(fields) => out.extend(fields),
    }
    out
}

fn info(name: &str, kind: u64, dims: &[Option<u64>]) -> Vec<u8> {
    let mut shape = Vec::new();
    for size in dims {
        let mut dim = Vec::new();
        if let Some(size) = size {
            number(&mut dim, 1, *size);
        }
        field(&mut shape, 1, &dim);
    }
    let mut tensor = Vec::new();
    number(&mut tensor, 1, kind);
    field(&mut tensor, 2, &shape);
    let mut kind = Vec::new();
    field(&mut kind, 1, &tensor);
    let mut out = Vec::new();
    field(&mut out, 1, name.as_bytes());
    field(&mut out, 2, &kind);
    out
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A field that holds a number.
pub fn number(out: &mut Vec<u8>, id: u64, value: u64) {
    varint(out, id << 3);
    varint(out, value);
}

/// A field that holds bytes.
pub fn field(out: &mut Vec<u8>, id: u64, bytes: &[u8]) {
    varint(out, id << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
