//! What `build.rs` and `cargo xtask ptx` share, without a compiler: fingerprints, the way from
//! nvcc's text to the shipped one, and what is read out of it.

use std::path::{Path, PathBuf};

use crate::kernels::declaration::{Compiler, Declaration, Declarations};
use crate::kernels::info::Info;
use crate::kernels::manifest::{Manifest, Record};
use crate::kernels::ship::{Origin, ship};
use crate::kernels::sources::{Fingerprint, Sources, sha256};

/// A repository in a temporary folder with one entry, `toy`, made from three files.
struct Toy {
    root: PathBuf,
}

impl Toy {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("xtask-{}-{name}", std::process::id()));
        let toy = Self { root };
        toy.write(
            "cuda/kernels.toml",
            r#"
            [compiler]
            nvcc = "13.0.88"
            flags = ["-O3", "-lineinfo"]
            [[entry]]
            name = "toy"
            source = "toys/toy.cu"
            kernel = "toy"
            target = "sm_80"
            ptx_version = "7.2"
            dtype = "f32"
            defines = { WIDTH = 4 }
            "#,
        );
        toy.write(
            "cuda/toys/toy.cu",
            "#include <cuda_bf16.h>\n#include \"toy.cuh\"\n",
        );
        toy.write(
            "cuda/toys/toy.cuh",
            "  #  include \"common/help.cuh\"\n// #include \"no.cuh\"\n",
        );
        toy.write("cuda/common/help.cuh", "#include \"../toys/toy.cuh\"\n");
        toy
    }

    fn write(&self, path: &str, text: &str) {
        crate::kernels::write(&self.root.join(path), text).unwrap();
    }

    fn declarations(&self) -> Declarations {
        Declarations::read(&self.root).unwrap()
    }

    fn fingerprint(&self) -> Fingerprint {
        let declarations = self.declarations();
        let mut sources = Sources::default();
        sources
            .fingerprint(&self.root, &declarations.compiler, &declarations.entries[0])
            .unwrap()
    }

    /// A manifest that describes what is there now.
    fn manifest(&self) -> Manifest {
        let declarations = self.declarations();
        let entry = &declarations.entries[0];
        let now = self.fingerprint();
        Manifest {
            compiler: declarations.compiler.clone(),
            sources: now.files.clone(),
            entries: vec![Record {
                name: entry.name.clone(),
                key: now.key.clone(),
                ptx_sha256: sha256(""),
                kernel: entry.kernel.clone(),
                target: entry.target.clone(),
                ptx_version: entry.ptx_version.clone(),
                dtype: entry.dtype.clone(),
                head_dim: entry.head_dim,
                v_dim: entry.v_dim,
                variant: entry.variant.clone(),
                hot: entry.hot,
                sources: now.files.into_keys().collect(),
                defines: entry.defines.clone(),
                info: Info::read(&shipped(entry), entry).unwrap(),
            }],
        }
    }

    fn differences(&self, manifest: &Manifest) -> Vec<String> {
        let declarations = self.declarations();
        let entry = &declarations.entries[0];
        manifest.differences(&declarations.compiler, entry, &self.fingerprint())
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        // A folder that stays behind in the temporary folder harms nobody.
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

#[test]
fn includes_are_followed_through_headers_and_cycles() {
    let files = Toy::new("closure").fingerprint().files;
    let names: Vec<_> = files.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "cuda/common/help.cuh",
            "cuda/toys/toy.cu",
            "cuda/toys/toy.cuh"
        ]
    );
}

#[test]
fn a_missing_header_is_named_with_its_line() {
    let toy = Toy::new("missing");
    toy.write("cuda/common/help.cuh", "\n#include \"gone.cuh\"\n");
    let declarations = toy.declarations();
    let result =
        Sources::default().fingerprint(&toy.root, &declarations.compiler, &declarations.entries[0]);
    let message = result.err().unwrap();
    assert!(
        message.starts_with("cuda/common/help.cuh:2: \"gone.cuh\""),
        "{message}"
    );
}

#[test]
fn every_kind_of_edit_is_found_and_named() {
    let toy = Toy::new("edits");
    let manifest = toy.manifest();
    assert!(toy.differences(&manifest).is_empty());

    toy.write("cuda/common/help.cuh", "#define STAGES 3\n");
    assert_eq!(
        toy.differences(&manifest),
        ["cuda/common/help.cuh was edited"]
    );

    toy.write("cuda/common/help.cuh", "#include \"../toys/toy.cuh\"\n");
    assert!(
        toy.differences(&manifest).is_empty(),
        "an edit that is taken back is no edit"
    );

    toy.write("cuda/more.cuh", "");
    toy.write("cuda/toys/toy.cuh", "#include \"more.cuh\"\n");
    assert_eq!(
        toy.differences(&manifest),
        [
            "cuda/more.cuh is included now",
            "cuda/toys/toy.cuh was edited",
            "cuda/common/help.cuh is not included any more",
        ]
    );
}

#[test]
fn settings_count_as_much_as_files() {
    let toy = Toy::new("settings");
    let manifest = toy.manifest();
    let text = std::fs::read_to_string(toy.root.join("cuda/kernels.toml")).unwrap();
    for (old, new, reason) in [
        (
            "WIDTH = 4",
            "WIDTH = 8",
            "its settings in cuda/kernels.toml were edited",
        ),
        (
            "\"7.2\"",
            "\"7.4\"",
            "its settings in cuda/kernels.toml were edited",
        ),
        (
            "sm_80",
            "sm_90a",
            "its settings in cuda/kernels.toml were edited",
        ),
        (
            "13.0.88",
            "13.1.0",
            "the compiler or its flags changed in cuda/kernels.toml",
        ),
        (
            "-lineinfo",
            "-g",
            "the compiler or its flags changed in cuda/kernels.toml",
        ),
        (
            "name = \"toy\"",
            "name = \"top\"",
            "it is new: ptx/manifest.toml does not have it",
        ),
    ] {
        toy.write("cuda/kernels.toml", &text.replace(old, new));
        assert_eq!(toy.differences(&manifest), [reason], "{old} → {new}");
    }
}

/// Nested inlining, lines next to each other, paths, the path's hash in names: what nvcc writes, in
/// short.
const RAW: &str = "//
// Generated by a compiler
//

.version 9.0
.target sm_80
.address_size 64

\t// .globl\ttoy
.const .align 4 .b8 toy_info[48] = {1, 0, 0, 0, 0, 2, 0, 0, 128, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, \
2, 0, 0, 0, 16, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 12};
.global .align 4 .b8 _ZN32_INTERNAL_fdc83a4d_6_toy_cu_4f5tableE[4];

.visible .entry toy(
\t.param .align 8 .b8 toy_param_0[16]
)
.maxntid 64, 2, 1
{
\t.reg .b32 \t%r<3>;
\t.loc\t1 9 0
\t.loc\t1 10 3
\tmov.u32 \t%r1, %tid.x;
\t.loc\t1 10 3
\t.loc\t2 40 3, function_name $L__info_string0, inlined_at 1 10 3
\t.loc\t3 50 1, function_name $L__info_string1, inlined_at 2 40 3
\t// begin inline asm
\tnop;
\t// end inline asm
\t.loc\t1 10 3
\t.loc\t2 41 3, function_name $L__info_string0, inlined_at 1 10 3
\tadd.u32 \t%r1, %r1, 1;
\t.loc\t2 42 3, function_name $L__info_string0, inlined_at 1 10 3
\tadd.u32 \t%r1, %r1, 2;
\t.pragma \"used_bytes_mask 15\";
\t.loc\t1 20 3, function_name $L__info_string2, inlined_at 1 11 3
\tret;

}
\t.file\t1 \"ROOT/cuda/toys/toy.cu\"
\t.file\t2 \"ROOT/cuda/common/help.cuh\", 1700000000, 123
\t.file\t3 \"ROOT/cuda/common/../common/ptx.cuh\"
\t.section\t.debug_str
\t{
$L__info_string0:
.b8 95,73,78,84,69,82,78,65,76,95,102,100,99,56
.b8 51,97,52,100,95,98,0
$L__info_string1:
.b8 97,0
$L__info_string2:
.b8 99,0

\t}
";

const SHIPPED: &str = "// toy: cuda/toys/toy.cu by nvcc 13.0.88 -O3 -lineinfo -arch=compute_80 -DINFER_ENTRY=toy -DWIDTH=4
// generated by `cargo xtask ptx`; nvcc wrote .version 9.0

.version 7.2
.target sm_80
.address_size 64

\t// .globl\ttoy
.const .align 4 .b8 toy_info[48] = {1, 0, 0, 0, 0, 2, 0, 0, 128, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, \
2, 0, 0, 0, 16, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 8, 0, 0, 0, 12};
.global .align 4 .b8 _ZN32_INTERNAL_00000000_6_toy_cu_4f5tableE[4];

.visible .entry toy(
\t.param .align 8 .b8 toy_param_0[16]
)
.maxntid 64, 2, 1
{
\t.reg .b32 %r<3>;
\t.loc 1 10 3
\tmov.u32 %r1, %tid.x;
\t.loc 2 40 3, function_name $F0, inlined_at 1 10 3
\tnop;
\tadd.u32 %r1, %r1, 1;
\t.loc 2 42 3, function_name $F0, inlined_at 1 10 3
\tadd.u32 %r1, %r1, 2;
\t.loc 1 20 3
\tret;

}
\t.file\t1 \"cuda/toys/toy.cu\"
\t.file\t2 \"cuda/common/help.cuh\"
\t.file\t3 \"cuda/common/ptx.cuh\"
\t.section\t.debug_str
\t{
$F0:
.b8 95,73,78,84,69,82,78,65,76,95,48,48,48,48,48,48,48,48,95,98,0
\t}
";

fn entry(toy: &Toy) -> (Compiler, Declaration) {
    let mut declarations = toy.declarations();
    (declarations.compiler, declarations.entries.remove(0))
}

/// The shipped text with what a declaration asks for.
fn shipped(entry: &Declaration) -> String {
    SHIPPED.replace(".version 7.2", &format!(".version {}", entry.ptx_version))
}

fn ship_raw(toy: &Toy, raw: &str) -> Result<String, String> {
    toy.write("cuda/common/ptx.cuh", "");
    let (compiler, entry) = entry(toy);
    let raw = raw.replace("ROOT", &toy.root.display().to_string());
    ship(
        &raw,
        &entry,
        &Origin {
            root: &toy.root,
            toolkit: None,
            compiler: &compiler,
        },
    )
}

#[test]
fn the_shipped_text_is_portable_and_its_line_information_flat() {
    let toy = Toy::new("ship");
    assert_eq!(ship_raw(&toy, RAW).unwrap(), SHIPPED);
}

#[test]
fn the_toolkits_headers_are_named_without_their_folder() {
    let toy = Toy::new("toolkit");
    toy.write("tools/cuda/include/cuda_bf16.hpp", "");
    let (compiler, entry) = entry(&toy);
    let toolkit = toy.root.join("tools/cuda");
    let raw = format!(
        ".version 9.0\n\t.file\t1 \"{}/bin/..//include/cuda_bf16.hpp\"\n",
        toolkit.display()
    );
    std::fs::create_dir_all(toolkit.join("bin")).unwrap();
    let origin = Origin {
        root: &toy.root,
        toolkit: Some(&toolkit),
        compiler: &compiler,
    };
    let text = ship(&raw, &entry, &origin).unwrap();
    assert!(
        text.ends_with("\t.file\t1 \"<cuda>/include/cuda_bf16.hpp\"\n"),
        "{text}"
    );
}

#[test]
fn device_code_from_elsewhere_is_refused() {
    let toy = Toy::new("elsewhere");
    let message = ship_raw(&toy, &RAW.replace("ROOT/cuda/toys", "/elsewhere")).unwrap_err();
    assert!(message.contains("/elsewhere/toy.cu"), "{message}");
}

#[test]
fn a_kernel_tells_about_itself() {
    let (_, entry) = entry(&Toy::new("info"));
    let info = Info::read(SHIPPED, &entry).unwrap();
    let expected = Info {
        threads: 128,
        smem_bytes: 512,
        tile_q: 1,
        tile_k: 1,
        stages: 2,
        param_bytes: 16,
        param_offsets: vec![0, 4, 8, 12],
    };
    assert_eq!(info, expected);
}

#[test]
fn a_kernel_that_contradicts_itself_is_refused() {
    let (_, entry) = entry(&Toy::new("contradiction"));
    for (old, new, reason) in [
        (".version 7.2", ".version 9.0", ".version is \"9.0\""),
        (".target sm_80", ".target sm_90", ".target is \"sm_90\""),
        ("toy_info[48]", "top_info[48]", "it has no"),
        ("toy_info[48]", "toy_info[28]", "too short"),
        ("= {1, 0", "= {2, 0", "version 2, not 1"),
        ("toy_info[48]", "toy_info[52]", "lists 5 of 4 fields"),
        (
            "8, 0, 0, 0, 12}",
            "8, 0, 0, 0, 16}",
            "lie at [0, 4, 8, 16] of 16",
        ),
        (
            "8, 0, 0, 0, 12}",
            "8, 0, 0, 0, 8}",
            "lie at [0, 4, 8, 8] of 16",
        ),
        ("toy_param_0[16]", "toy_param_0[24]", ".param 24"),
        (
            ".b8 toy_param_0[16]\n",
            ".b8 toy_param_0[8],\n\t.param .u64 b\n",
            "one struct by value",
        ),
        (".maxntid 64, 2, 1", ".maxntid 64", ".maxntid 64"),
        (".maxntid 64, 2, 1\n", "", "__launch_bounds__"),
        (
            "\n.visible .entry toy(",
            "\n.visible .entry top(\n.visible .entry toy(",
            "one entry",
        ),
    ] {
        let message = Info::read(&SHIPPED.replace(old, new), &entry).unwrap_err();
        assert!(message.contains(reason), "{old} → {new}: {message}");
    }
}

#[test]
fn wrong_declarations_are_refused() {
    let toy = Toy::new("declarations");
    let text = std::fs::read_to_string(toy.root.join("cuda/kernels.toml")).unwrap();
    let table = &text[text.find("[[entry]]").unwrap()..];
    for (wrong, reason) in [
        (text.replace("sm_80", "80"), "target"),
        (text.replace("\"7.2\"", "\"7\""), "ptx_version"),
        (text.replace("kernel =", "kernle ="), "kernle"),
        (format!("{text}\n{table}"), "declared twice"),
    ] {
        toy.write("cuda/kernels.toml", &wrong);
        let message = Declarations::read(&toy.root).err().unwrap();
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn the_repository_is_up_to_date() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let declarations = Declarations::read(root).unwrap();
    let manifest = Manifest::read(root).unwrap();
    let mut sources = Sources::default();
    for entry in &declarations.entries {
        let now = sources
            .fingerprint(root, &declarations.compiler, entry)
            .unwrap();
        let differences = manifest.differences(&declarations.compiler, entry, &now);
        assert!(
            differences.is_empty(),
            "{}: {differences:?}: run `cargo xtask ptx`",
            entry.name
        );
    }
}
