//! The program `ptxrun`: what it writes, and how it ends.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// `scale(p, n, x)` multiplies `n` floats; `tail` forgets to look at `n`; `sum` takes an aggregate;
/// `odd` does not load; `count` loops ten times.
const PTX: &str = r#".version 7.0
.target sm_80
.address_size 64
.visible .entry scale(.param .u64 p, .param .u32 n, .param .f32 x) {
    .reg .b32 %r<6>; .reg .b64 %rd<4>; .reg .f32 %f<3>; .reg .pred %p;
    ld.param.u64 %rd1, [p];
    ld.param.u32 %r1, [n];
    ld.param.f32 %f1, [x];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra done;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    ld.global.f32 %f2, [%rd3];
    mul.f32 %f2, %f2, %f1;
    st.global.f32 [%rd3], %f2;
done:
    ret;
}
.visible .entry tail(.param .u64 p) {
    .reg .b32 %r<2>; .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [p];
    mov.u32 %r1, %tid.x;
    mul.wide.u32 %rd2, %r1, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}
.visible .entry sum(.param .align 8 .b8 all[24]) {
    .reg .b64 %rd<3>; .reg .f64 %f<3>;
    ld.param.u64 %rd1, [all];
    ld.param.f64 %f1, [all+8];
    ld.param.u64 %rd2, [all+16];
    ld.global.f64 %f2, [%rd1];
    add.f64 %f2, %f2, %f1;
    st.global.f64 [%rd2], %f2;
    ret;
}
.visible .entry odd() {
    .reg .b32 %r<2>;
    frobnicate.b32 %r1, 1;
    ret;
}
.visible .entry count(.param .u64 p) {
    .reg .b32 %r<3>; .reg .b64 %rd<2>; .reg .pred %p;
    ld.param.u64 %rd1, [p];
    mov.u32 %r1, 0;
again:
    add.u32 %r1, %r1, 1;
    setp.lt.u32 %p, %r1, 10;
    @%p bra again;
    st.global.u32 [%rd1], %r1;
    ret;
}
"#;

/// A folder with the PTX in it, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = std::env::temp_dir().join(format!("ptxrun-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("k.ptx"), PTX).unwrap();
        Folder(folder)
    }

    fn run(&self, arguments: &str) -> Output {
        self.run_words(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    fn run_words(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ptxrun"))
            .args(arguments)
            .current_dir(&self.0)
            .output()
            .unwrap()
    }

    /// Standard output of a run that ends well.
    #[track_caller]
    fn clean(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments}: {errors}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a run that ends with this code.
    #[track_caller]
    fn ends(&self, code: i32, arguments: &str) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {errors}");
        errors
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A NumPy file of one axis.
fn save(path: &Path, descr: &str, len: usize, bytes: &[u8]) {
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({len},), }}");
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.bytes());
    file.extend(bytes);
    std::fs::write(path, file).unwrap();
}

/// Header and elements of a NumPy file.
fn load(path: &Path) -> (String, Vec<u8>) {
    let file = std::fs::read(path).unwrap();
    let len = usize::from(u16::from_le_bytes([file[8], file[9]]));
    (
        String::from_utf8(file[10..10 + len].into()).unwrap(),
        file[10 + len..].into(),
    )
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

#[test]
fn arrays_go_in_and_come_out() {
    let folder = Folder::new("arrays");
    save(&folder.file("x.npy"), "<f4", 3, &floats(&[1.0, 2.0, 3.0]));
    let said = folder.clean(
        "run k.ptx --entry scale --grid 1 --block 32 --arg inout:x.npy:y.npy --arg u32:2 --arg f32:-0.5",
    );
    assert!(
        said.contains("scale: clean on an emulated A100 with seed 0"),
        "{said}"
    );
    let (header, bytes) = load(&folder.file("y.npy"));
    assert!(
        header.contains("'<f4'") && header.contains("(3,)"),
        "{header}"
    );
    assert_eq!(bytes, floats(&[-0.5, -1.0, 3.0]));
    // A fresh buffer, of two axes.
    folder.clean("run k.ptx --entry tail --grid 1 --block 6 --arg out:u32:2x3:t.npy");
    let (header, bytes) = load(&folder.file("t.npy"));
    assert!(header.contains("(2, 3)"), "{header}");
    assert_eq!(bytes[4 * 5..], [5, 0, 0, 0]);
}

#[test]
fn aggregates_get_addresses_written_into_them() {
    let folder = Folder::new("aggregates");
    save(&folder.file("x.npy"), "<f8", 1, &1.5f64.to_le_bytes());
    let mut all = [0; 24];
    all[8..16].copy_from_slice(&2.0f64.to_le_bytes());
    std::fs::write(folder.file("all.bin"), all).unwrap();
    let value = "bytes:all.bin,0=in:x.npy,16=out:f64:1:y.npy";
    folder.clean(&format!(
        "run k.ptx --entry sum --grid 1 --block 1 --arg {value}"
    ));
    assert_eq!(load(&folder.file("y.npy")).1, 3.5f64.to_le_bytes());
    let short = "bytes:all.bin,20=in:x.npy";
    let said = folder.ends(
        2,
        &format!("run k.ptx --entry sum --grid 1 --block 1 --arg {short}"),
    );
    assert!(said.contains("no address fits at 20 of 24 bytes"), "{said}");
}

#[test]
fn a_broken_rule_ends_with_one_and_is_told() {
    let folder = Folder::new("broken");
    let said = folder.ends(
        1,
        "run k.ptx --entry tail --grid 1 --block 7 --arg zeros:u32:6 --json r.json --seed 9",
    );
    assert!(said.contains("out of bounds in global memory"), "{said}");
    assert!(
        said.contains("tail, PTX line 29") && said.contains("replay with seed 9"),
        "{said}"
    );
    let json = std::fs::read_to_string(folder.file("r.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["clean"], false);
    assert_eq!(json["violation"]["ptx_line"], 29);
    assert_eq!(json["violation"]["lanes"], 1 << 6);
    // Uninitialised memory is found unless that is switched off.
    let run = "run k.ptx --entry scale --grid 1 --block 32 --arg u32:0 --arg u32:1 --arg f32:1";
    let said = folder.ends(2, &run.replace("u32:0", "u8:0"));
    assert!(
        said.contains("parameters of [1, 4, 4] bytes, the kernel takes [8, 4, 4]"),
        "{said}"
    );
    folder.ends(1, &run.replace("u32:0", "null"));
}

#[test]
fn many_seeds_are_tried_and_counted() {
    let folder = Folder::new("seeds");
    let said = folder.clean(
        "run k.ptx --entry tail --grid 1 --block 64 --seeds 5 --arg out:u32:64:t.npy --json r.json",
    );
    assert!(said.contains("with 5 seeds"), "{said}");
    let json = std::fs::read_to_string(folder.file("r.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&json["clean"], &json["differs_at_seed"]),
        (&true.into(), &serde_json::Value::Null)
    );
    assert!(json["stats"]["warp_instructions"].as_u64().unwrap() > 0);
}

#[test]
fn what_is_not_checked_is_said_and_switches_are_kept() {
    let folder = Folder::new("switches");
    let run = "run k.ptx --entry tail --grid 1 --block 64 --arg out:u32:64:t.npy --json r.json";
    for (check, said) in [
        ("all", "global memory\n"),
        (
            "none",
            "; neither races nor uninitialised values were looked for\n",
        ),
        ("memory,sync,init", "; races were not looked for\n"),
    ] {
        let output = folder.clean(&format!("{run} --check {check} --perturb --no-reconverge"));
        assert!(output.ends_with(said), "{check}: {output}");
    }
    let json = std::fs::read_to_string(folder.file("r.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        ["perturb", "reconverge", "init_checked", "races_checked"].map(|name| json[name].as_bool()),
        [true, false, true, false].map(Some)
    );
    // Memory is checked whatever is said.
    folder.ends(
        1,
        "run k.ptx --entry tail --grid 1 --block 65 --arg zeros:u32:64 --check none",
    );
}

#[test]
fn wrong_usage_ends_with_two_and_names_what_was_expected() {
    let folder = Folder::new("usage");
    for (arguments, reason) in [
        ("run k.ptx --entry none --grid 1 --block 1", "scale"),
        (
            "run k.ptx --grid 1 --block 1",
            "--entry: expected one of scale, tail, sum, odd",
        ),
        (
            "run k.ptx --entry tail --grid 1 --block 1",
            "takes 1 parameters, 0 were given",
        ),
        (
            "run k.ptx --entry tail --grid 0 --block 1 --arg null",
            "grid [0, 1, 1]",
        ),
        (
            "run k.ptx --entry tail --grid x --block 1 --arg null",
            "no extent",
        ),
        (
            "run k.ptx --entry tail --grid 1 --block 1 --arg in:no.npy",
            "no.npy",
        ),
        (
            "run k.ptx --entry tail --grid 1 --block 1 --arg f31:1",
            "expected TYPE:VALUE",
        ),
        (
            "run k.ptx --entry tail --grid 1 --block 1 --arg null --gpu voodoo",
            "A100",
        ),
        ("run no.ptx --entry tail --grid 1 --block 1", "no.ptx"),
        ("run k.ptx --entry odd --grid 1 --block 1", "line 44"),
        (
            "run k.ptx --entry tail --grid 1 --block 1 --arg null --seeds 0",
            "at least 1",
        ),
        (
            "run k.ptx --entry tail --grid 1 --block 1 --arg null --check race",
            "memory and sync cannot be switched off",
        ),
        ("walk", "walk"),
    ] {
        let said = folder.ends(2, arguments);
        assert!(said.contains(reason), "{arguments}: {said}");
    }
}

#[test]
fn kernels_are_listed_with_what_does_not_load() {
    let folder = Folder::new("list");
    let said = folder.clean("list k.ptx");
    assert!(said.starts_with("PTX 7.0 for sm_80"), "{said}");
    assert!(
        said.contains("scale\n  parameter 0: p (8 bytes at offset 0)"),
        "{said}"
    );
    assert!(said.contains("odd\n  does not load: line 44"), "{said}");
    let said = folder.ends(2, "list k.ptx --gpu t4");
    assert!(said.contains("sm_75"), "{said}");
}

#[test]
fn a_profile_shows_the_model_and_the_lines() {
    let folder = Folder::new("profile");
    let said = folder.clean(
        "profile k.ptx --entry scale --grid 4 --block 64 --rows 3 --arg zeros:f32:256 --arg u32:256 --arg f32:2",
    );
    assert!(said.contains("A100"), "{said}");
    assert!(
        said.contains("executed") && said.contains("lines more"),
        "{said}"
    );
    folder.ends(
        1,
        "profile k.ptx --entry tail --grid 1 --block 7 --arg zeros:u32:6",
    );
}

const MUTATE_SCALE: &str =
    "mutate k.ptx --entry scale --grid 1 --block 32 --arg inout:x.npy:y.npy --arg f32:-0.5";

/// 31 of 32 threads have work: each mutant is noticed, but those of a sign that is never negative,
/// which somebody has argued.
#[test]
fn a_good_test_notices_each_mutant() {
    let folder = Folder::new("noticed");
    let x: Vec<f32> = (1..32).map(|i| i as f32 / 7.0).collect();
    save(&folder.file("x.npy"), "<f4", 31, &floats(&x));
    let run = MUTATE_SCALE.replace("--arg f32", "--arg u32:31 --arg f32");
    let output = folder.run(&run);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains(
            "survived: type at PTX line 13\n  - setp.ge.u32 %p, %r5, %r1;\n  + setp.ge.s32"
        ),
        "{said}"
    );
    assert!(said.contains("27 of 29 noticed, 93.1 %"), "{said}");
    let list = "# signs\n*: *u32* => *s32* # indices are below 2^31\n9: ret => # such a thing is not there\n";
    std::fs::write(folder.file("same.txt"), list).unwrap();
    let said = folder.clean(&format!(
        "{run} --equivalent same.txt --json r.json --jobs 2"
    ));
    assert!(
        said.contains("27 of 27 noticed, 100.0 %; with 95 % confidence at least 89.5 %"),
        "{said}"
    );
    assert!(said.contains("because indices are below 2^31"), "{said}");
    assert!(said.contains("no such mutant: 9: ret =>"), "{said}");
    let json = std::fs::read_to_string(folder.file("r.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["equivalent"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&json["all"]["drawn"], &json["all"]["survived"]),
        (&27.into(), &0.into())
    );
    assert_eq!(json["kinds"]["store"]["output"], 1);
    folder.ends(2, &format!("{run} --equivalent x.npy"));
}

/// What was never written reads as zeros, which are what is expected.
#[test]
fn zeros_that_nobody_wrote_are_told_from_zeros() {
    let folder = Folder::new("unwritten");
    save(&folder.file("x.npy"), "<f4", 32, &floats(&[2.0; 32]));
    let said = folder.clean(
        "mutate k.ptx --entry scale --grid 1 --block 32 --kinds deletion \
         --arg inout:x.npy:y.npy --arg u32:32 --arg f32:0",
    );
    assert!(said.contains("12 of 12 noticed"), "{said}");
    let run = "run k.ptx --entry tail --grid 1 --block 24 --arg out:u32:32:t.npy --json r.json";
    let said = folder.clean(run);
    assert!(
        said.contains("t.npy: 8 of 32 elements were never written, or are made of what never was; the first is 24"),
        "{said}"
    );
    let json = std::fs::read_to_string(folder.file("r.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["never_written"][0]["elements"][7], 31);
    let said = folder.clean(&format!("{run} --check none"));
    assert!(!said.contains("never written"), "{said}");
}

/// All threads have work, so nothing shows what happens at the end.
#[test]
fn a_weak_test_lets_mutants_survive() {
    let folder = Folder::new("survivors");
    save(&folder.file("x.npy"), "<f4", 32, &floats(&[2.0; 32]));
    save(
        &folder.file("other.npy"),
        "<f4",
        32,
        &floats(&[-1.0625; 32]),
    );
    let run = MUTATE_SCALE.replace(
        "--arg f32",
        "--arg u32:32 --kinds comparison,branch --arg f32",
    );
    let output = folder.run(&run);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("+ setp.gt.u32 %p, %r5, %r1;"), "{said}");
    assert!(!said.contains("+ setp.lt.u32"), "{said}");
    // It is good enough for somebody who asks for little.
    folder.clean(&format!("{run} --at-least 1"));
    folder.ends(1, &format!("{run} --at-least 90"));
    // What comes out is -1 everywhere.
    let said = folder.ends(2, &format!("{run} --expect y.npy=other.npy"));
    assert!(
        said.contains("y.npy: element 0 is -1, expected -1.0625"),
        "{said}"
    );
    folder.ends(1, &format!("{run} --expect y.npy=other.npy --atol 0.0625"));
    folder.ends(1, &format!("{run} --expect y.npy=other.npy --rtol 0.06"));
    for (arguments, reason) in [
        (
            format!("{run} --expect z.npy=other.npy"),
            "no --arg has the output z.npy",
        ),
        (run.replace("comparison,branch", "barrier"), "no mutants"),
        (format!("{run} --kinds walls"), "is no kind of mutant"),
        (
            run.replace(":y.npy", ":y.npy --test true"),
            "cannot be used with",
        ),
        (run.replace("--grid 1", ""), "--grid"),
        (
            "mutate k.ptx --entry count --grid 1 --block 1 --arg zeros:u32:1".into(),
            "nothing to compare",
        ),
    ] {
        let said = folder.ends(2, &arguments);
        assert!(said.contains(reason), "{arguments}: {said}");
    }
}

#[test]
fn a_mutant_that_does_not_end_is_noticed() {
    let folder = Folder::new("endless");
    let said = folder.run("mutate k.ptx --entry count --grid 1 --block 1 --arg zeros:u32:1:n.npy --kinds branch --json r.json");
    let json = std::fs::read_to_string(folder.file("r.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    // Always, never, and the other way around.
    assert_eq!(
        (&json["all"]["endless"], &json["all"]["output"]),
        (&1.into(), &2.into()),
        "{said:?}"
    );
}

#[cfg(unix)]
#[test]
fn a_command_is_given_each_mutant() {
    let folder = Folder::new("command");
    let mutate =
        |command: &str| folder.run_words(&["mutate", "k.ptx", "--sample", "20", "--test", command]);
    let said = mutate("cmp -s $PTXRUN_ORIGINAL $PTXRUN_MUTANT");
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(said.status.code(), Some(0), "{text}");
    assert!(
        text.contains("20 of 20 noticed") && text.contains("mutants of all lines were drawn"),
        "{text}"
    );
    let said = mutate("true");
    assert_eq!(said.status.code(), Some(1));
    assert!(
        String::from_utf8(said.stdout)
            .unwrap()
            .contains("0 of 20 noticed")
    );
    let said = mutate("false");
    assert_eq!(said.status.code(), Some(2));
    assert!(
        String::from_utf8(said.stderr)
            .unwrap()
            .contains("fails with the unchanged text")
    );
    // It tells which line it ran.
    let said = mutate(
        "cmp -s $PTXRUN_ORIGINAL $PTXRUN_MUTANT && if [ -n \"$PTXRUN_EXECUTED\" ]; then echo 13 > $PTXRUN_EXECUTED; fi",
    );
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("4 of 4 noticed"), "{text}");
}

#[test]
fn a_profile_s_page_escapes_what_it_shows_and_needs_nothing_else() {
    let folder = Folder::new("page");
    let cuda = "// a <b>&amp; line\n// the sum\nif (a < b && c > d) data[i] *= x; // <script>alert(1)</script>\n";
    std::fs::create_dir(folder.file("cuda")).unwrap();
    std::fs::write(folder.file("cuda/k.cu"), cuda).unwrap();
    let lines = PTX
        .replace("    setp.ge", ".loc 1 3 0\n    setp.ge")
        .replacen(".visible", ".file 1 \"/elsewhere/cuda/k.cu\"\n.visible", 1);
    std::fs::write(folder.file("lines.ptx"), lines).unwrap();
    let run = |file: &str, more: &str| {
        folder.clean(&format!(
            "profile {file} --entry scale --grid 4 --block 64 --html p.html {more} \
             --arg zeros:f32:256 --arg u32:256 --arg f32:2"
        ));
        std::fs::read_to_string(folder.file("p.html")).unwrap()
    };
    let page = run("lines.ptx", "--on h100,l4");
    assert!(
        page.contains("if (a &lt; b &amp;&amp; c &gt; d) data[i]"),
        "{page}"
    );
    assert!(page.contains("// a &lt;b&gt;&amp;amp; line"), "{page}");
    assert!(!page.contains("<script"), "{page}");
    assert!(
        !page.contains("http:") && !page.contains("https:") && !page.contains("url("),
        "{page}"
    );
    for part in [
        "no measurement",
        "H100",
        "L4",
        "<svg",
        "Occupancy",
        "warp instructions",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("A100"), "{page}");
    // Elements end where they begin.
    for element in ["table", "tr", "svg", "section", "article", "details", "td"] {
        let count = |what: &str| page.matches(what).count();
        let open = count(&format!("<{element} ")) + count(&format!("<{element}>"));
        assert_eq!(open, count(&format!("</{element}>")), "{element}");
    }
    // The source is elsewhere, and there is none.
    std::fs::create_dir(folder.file("ptx")).unwrap();
    std::fs::copy(folder.file("lines.ptx"), folder.file("ptx/lines.ptx")).unwrap();
    assert!(run("ptx/lines.ptx", "").contains("Not found"));
    assert!(run("ptx/lines.ptx", "--source .").contains("data[i] *= x"));
    let page = run("k.ptx", "");
    assert!(
        page.contains("compile with -lineinfo") && page.contains("mul.f32 %f2"),
        "{page}"
    );
}

#[test]
fn completions_and_help_name_the_commands() {
    let folder = Folder::new("help");
    assert!(folder.clean("completions bash").contains("ptxrun"));
    let help = folder.clean("--help");
    assert!(
        help.contains("Exit status") && help.contains("ptxrun list kernels.ptx"),
        "{help}"
    );
}
