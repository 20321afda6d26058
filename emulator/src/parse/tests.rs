//! The idioms of nvcc, NVRTC and clang, and texts that must be refused.

use super::{ParseError, parse};
use crate::ast::*;

fn module(items: &str) -> Result<Module, ParseError> {
    parse(&format!(
        ".version 8.5\n.target sm_80\n.address_size 64\n{items}"
    ))
}

fn body(text: &str) -> Result<Vec<Statement>, ParseError> {
    let mut module = module(&format!(".entry k() {{\n{text}\n}}"))?;
    Ok(module.functions.remove(0).body.expect("a body"))
}

fn instruction(text: &str) -> Instruction {
    match body(text).expect("a body").remove(0) {
        Statement::Instruction(instruction) => instruction,
        other => panic!("not an instruction: {other:?}"),
    }
}

fn operands(text: &str) -> Vec<Operand> {
    instruction(text).operands
}

fn name(name: &str) -> Operand {
    Operand::Name {
        name: name.into(),
        negated: false,
    }
}

#[test]
fn header_is_read() {
    let module = parse(
        "//\n// Generated\n//\n.version 9.0\n.target sm_80, debug\n.address_size 64\n\
         .file 1 \"/a/b.cu\", 1700000000, 42\n",
    )
    .expect("a module");
    assert_eq!(module.version, (9, 0));
    assert_eq!(module.target, ["sm_80", "debug"]);
    assert_eq!(module.files, [(1, "/a/b.cu".to_string())]);
    assert_eq!(
        parse(".version 7.0 .target sm_80")
            .expect("a module")
            .address_size,
        64
    );
}

#[test]
fn header_must_come_first() {
    for text in [
        "",
        ".target sm_80",
        ".version 8",
        ".version 7.0",
        ".entry k() { ret; }",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    let error = parse(".version 7.0\n.target sm_80\n.address_size 32\n").expect_err("32 bits");
    assert_eq!(
        (error.line, error.column, error.token.as_str()),
        (3, 15, "32")
    );
}

#[test]
fn kernel_head_of_nvcc() {
    let module = module(
        ".visible .entry _Z1kPfi(\n\t.param .align 8 .b8 _Z1kPfi_param_0[184],\n\
         \t.param .u64 .ptr .global .align 16 p1, .param .u64 .ptr .align 1 p2, .param .u32 p3\n)\n\
         .maxntid 128, 1, 1\n.minnctapersm 2\n.pragma \"nounroll\";\n{ ret; }\n\
         .extern .func (.param .b32 func_retval0) vprintf\n(\n.param .b64 a,\n.param .b64 b\n)\n;\n\
         .extern .func __assertfail(.param .b64 a) .noreturn;",
    )
    .expect("a module");
    let [kernel, vprintf, fail] = &module.functions[..] else {
        panic!("three functions")
    };
    assert!(kernel.entry && kernel.linkage == Some(Linkage::Visible));
    assert_eq!(kernel.params[0].dims, [Some(184)]);
    assert_eq!(kernel.params[0].align, Some(8));
    assert_eq!(kernel.params[1].ptr, Some((Some(Space::Global), 16)));
    assert_eq!(kernel.params[2].ptr, Some((None, 1)));
    assert_eq!(kernel.params[3].ty, Type::U32);
    let directives = [
        ("maxntid".to_string(), vec![128, 1, 1]),
        ("minnctapersm".into(), vec![2]),
    ];
    assert_eq!(kernel.directives, directives);
    assert_eq!(kernel.pragmas, ["nounroll"]);
    assert_eq!(kernel.line, 4);
    assert_eq!(
        (vprintf.returns.len(), vprintf.params.len(), &vprintf.body),
        (1, 2, &None)
    );
    assert_eq!(fail.directives, [("noreturn".to_string(), vec![])]);
}

#[test]
fn variables_of_a_module() {
    let module = module(
        ".extern .shared .align 16 .b8 smem[];\n\
         .visible .const .align 4 .b8 info[8] = {1, 2, 0xff, 3};\n\
         .global .align 8 .u64 table[2] = {generic(f)+4, g};\n\
         .global .f32 m[2][3] = {{1.0, 0f40000000}, {-3.5}};\n\
         .global .v4 .f32 v = {1.0, 2.0, 3.0, 4.0};\n\
         .global .u8 parts[] = {0xff(m), 0xff00(generic(m)+1)};\n\
         .global .attribute(.managed) .s32 a, b = -1;\n\
         .weak .global .align 1 .b8 $str[3] = {97, 98};",
    )
    .expect("a module");
    let find = |name: &str| {
        module
            .variables
            .iter()
            .find(|v| v.name == name)
            .expect("declared")
    };
    assert_eq!(
        (find("smem").dims.clone(), find("smem").align),
        (vec![None], Some(16))
    );
    assert_eq!(find("smem").linkage, Some(Linkage::Extern));
    assert_eq!(find("info").init, [1, 2, 255, 3].map(Init::Int));
    let address = |name: &str, offset, generic, mask| Init::Address {
        name: name.into(),
        offset,
        generic,
        mask,
    };
    assert_eq!(
        find("table").init,
        [address("f", 4, true, None), address("g", 0, false, None)]
    );
    let row = [
        Init::Float(1.0),
        Init::Float(2.0),
        Init::Int(0),
        Init::Float(-3.5),
    ];
    assert_eq!(find("m").init, row, "the first row is filled up");
    assert_eq!((find("v").vector, find("v").init.len()), (4, 4));
    let masks = [
        address("m", 0, false, Some(0xff)),
        address("m", 1, true, Some(0xff00)),
    ];
    assert_eq!(find("parts").init, masks);
    assert_eq!(find("b").init, [Init::Int(-1)]);
    assert_eq!(find("a").attributes, [".managed"]);
    assert_eq!(find("$str").linkage, Some(Linkage::Weak));
}

#[test]
fn initialisers_that_do_not_fit() {
    for text in [
        ".global .u32 z[2] = {1, 2, 3};",
        ".global .u32 z[2][2] = {1, 2};",
        ".global .u32 z[2][] = {{1}};",
        ".global .u8 z[2][0xffffffffffffffff] = {{1}, {2}};",
        ".global .u8 z[9][4][4][4][4][4][4][4][4] = {{{{{{{{{1}}}}}}}}};",
        ".global .u32 z = ;",
        ".global .align 3 .u32 z;",
        ".global .texref t;",
    ] {
        assert!(module(text).is_err(), "{text}");
    }
}

#[test]
fn registers_and_scopes() {
    let body = body(
        ".reg .pred %p<5>;\n.reg .b32 a, %r<20>;\n.reg .v2 .f32 v;\n\
         { .reg .b32 t; mov.b32 t, a; { add.s32 a, t, 1; } }\n.local .align 16 .b8 depot[32];",
    )
    .expect("a body");
    let Statement::Variable(p) = &body[0] else {
        panic!("a variable")
    };
    assert_eq!(
        (p.name.as_str(), p.ty, p.count, p.space),
        ("%p", Type::Pred, Some(5), Space::Reg)
    );
    let Statement::Variable(r) = &body[2] else {
        panic!("a variable")
    };
    assert_eq!((r.name.as_str(), r.count, r.line), ("%r", Some(20), 6));
    let Statement::Block(block) = &body[4] else {
        panic!("a block")
    };
    assert!(matches!(&block[2], Statement::Block(inner) if inner.len() == 1));
}

#[test]
fn opcodes_and_guards() {
    let guarded = instruction(
        "@!%p1 ld.global.L1::no_allocate.L2::128B.v4.u32 {%r1, _, %r2, %r3}, [%rd1+-16];",
    );
    assert_eq!(guarded.guard, Some(("%p1".to_string(), true)));
    assert_eq!(
        guarded.opcode,
        ["ld", "global", "L1::no_allocate", "L2::128B", "v4", "u32"]
    );
    let vector = Operand::Vector(vec![name("%r1"), Operand::Sink, name("%r2"), name("%r3")]);
    let address = Operand::Address {
        base: Some("%rd1".into()),
        offset: -16,
    };
    assert_eq!(guarded.operands, [vector, address]);
    assert_eq!(guarded.line, 5);
    assert!(instruction("ret;").operands.is_empty());
}

#[test]
fn operand_shapes() {
    assert_eq!(operands("mov.u32 %r1, %tid.x;")[1], name("%tid.x"));
    assert_eq!(
        operands("mov.u64 a, x+4;")[1],
        Operand::NamePlus {
            name: "x".into(),
            offset: 4
        }
    );
    assert_eq!(
        operands("and.pred p, q, !r;")[2],
        Operand::Name {
            name: "r".into(),
            negated: true
        }
    );
    let pair = |a, b| Operand::Pair(Box::new(a), Box::new(b));
    assert_eq!(
        operands("setp.eq.s32 p|q, a, b;")[0],
        pair(name("p"), name("q"))
    );
    assert_eq!(
        operands("elect.sync _|p, m;")[0],
        pair(Operand::Sink, name("p"))
    );
    let at = |offset| Operand::Address {
        base: Some("a".into()),
        offset,
    };
    for (text, offset) in [
        ("[a]", 0),
        ("[a+8]", 8),
        ("[a+-8]", -8),
        ("[a-8]", -8),
        ("[a+4*2+1]", 9),
        ("[ a + (2) ]", 2),
    ] {
        assert_eq!(
            operands(&format!("ld.b32 r, {text};"))[1],
            at(offset),
            "{text}"
        );
    }
    let absolute = Operand::Address {
        base: None,
        offset: 64,
    };
    assert_eq!(operands("ld.shared.b32 r, [0x40];")[1], absolute);
    let index = Operand::Vector(vec![name("x"), name("y")]);
    let indexed = Operand::Indexed {
        base: "t".into(),
        index: Box::new(index),
    };
    assert_eq!(
        operands("tex.2d.v4.f32.f32 {a,b,c,d}, [t, {x, y}];")[1],
        indexed
    );
}

#[test]
fn floating_constants_are_exact() {
    let float = |text: &str| match operands(&format!("mov.f32 f, {text};")).remove(1) {
        Operand::Float { value, bits32 } => (value.to_bits(), bits32),
        other => panic!("not a float: {other:?}"),
    };
    assert_eq!(float("0f3F800000"), (1f64.to_bits(), Some(0x3f80_0000)));
    assert_eq!(float("-0f3f800000"), ((-1f64).to_bits(), Some(0xbf80_0000)));
    assert_eq!(
        float("0f7F800001"),
        (0x7ff0_0000_2000_0000, Some(0x7f80_0001))
    );
    assert_eq!(float("0fFFC00000").1, Some(0xffc0_0000));
    assert_eq!(float("0d3FF0000000000001"), (0x3ff0_0000_0000_0001, None));
    assert_eq!(float("1.5"), (1.5f64.to_bits(), None));
    assert_eq!(float(".5"), (0.5f64.to_bits(), None));
    assert_eq!(float("-2e3"), ((-2000f64).to_bits(), None));
}

#[test]
fn constant_expressions_fold() {
    let value = |text: &str| match operands(&format!("mov.b64 r, {text};")).remove(1) {
        Operand::Int(value) => value,
        other => panic!("not an integer: {other:?}"),
    };
    for (text, expected) in [
        ("0xFFFFFFFFFFFFFFFF", i128::from(u64::MAX)),
        ("-9223372036854775808", 1 << 63),
        ("0b1011U", 11),
        ("0777", 511),
        ("1+2*3-4/2", 5),
        ("(1+2)*3", 9),
        ("-7/2", -3),
        ("-7 % 3", -1),
        ("1<<4|3", 19),
        ("~0", -1),
        ("(.u64)-1>>63", 1),
        ("-1>>1", -1),
        ("-1<0", 1),
        ("-1<0U", 0),
        ("5==5?WARP_SZ:2", 32),
        ("!3||0&&1", 0),
        ("7^2&3", 5),
    ] {
        assert_eq!(value(text), expected, "{text}");
    }
    assert!(body("mov.b64 r, 1/0;").is_err());
    assert!(body("mov.b64 r, 99999999999999999999;").is_err());
}

#[test]
fn calls() {
    let call = operands("call.uni (retval0), foo, (param0, param1);");
    let list = |items: &[&str]| Operand::List(items.iter().map(|i| name(i)).collect());
    assert_eq!(
        call,
        [list(&["retval0"]), name("foo"), list(&["param0", "param1"])]
    );
    assert_eq!(operands("call.uni foo, ();")[1], list(&[]));
    assert_eq!(operands("call (%r1), %rd2, (1, %r3), proto;").len(), 4);
    assert_eq!(
        operands("call f, (1);")[1],
        Operand::List(vec![Operand::Int(1)])
    );
    assert_eq!(operands("mov.b32 r, (1);")[1], Operand::Int(1));
}

#[test]
fn tables_and_labels() {
    let body = body(
        "$L__BB0_1: L2:bra L2;\nts: .branchtargets a, b;\n\
         prototype_0 : .callprototype (.param .b32 _) _ (.param .b64 _) .noreturn;",
    )
    .expect("a body");
    assert_eq!(body[0], Statement::Label("$L__BB0_1".into(), 5));
    assert_eq!(body[1], Statement::Label("L2".into(), 5));
    let items = vec!["a".to_string(), "b".to_string()];
    let table = Statement::Table {
        label: "ts".into(),
        kind: "branchtargets".into(),
        items,
        line: 6,
    };
    assert_eq!(body[3], table);
    let Statement::Prototype {
        returns, params, ..
    } = &body[4]
    else {
        panic!("not a prototype");
    };
    assert_eq!((returns[0].ty, params[0].ty), (Type::B32, Type::B64));
}

#[test]
fn line_information() {
    let body = body(
        ".loc 1 20 5\n.loc\t2 7 0, function_name $L__info_string0+12, inlined_at 1 20 5\n\
         .pragma \"nounroll\";",
    )
    .expect("a body");
    let plain = Statement::Loc {
        file: 1,
        line: 20,
        column: 5,
        inlined_at: None,
    };
    let inlined = Statement::Loc {
        file: 2,
        line: 7,
        column: 0,
        inlined_at: Some([1, 20, 5]),
    };
    assert_eq!(
        body,
        [plain, inlined, Statement::Pragma("nounroll".into(), 7)]
    );
}

#[test]
fn debug_sections_are_skipped() {
    let module = module(
        ".entry k() { ret; }\n.section\t.debug_str\n{\n$L__info_string0:\n.b8 95, 90\n.b8 0\n\
         .b32 .debug_abbrev\n.b64 $L__end-$L__begin\n}\n.global .u32 x;",
    )
    .expect("a module");
    assert_eq!((module.functions.len(), module.variables.len()), (1, 1));
    assert!(self::module(".section .debug_str { .b8 1").is_err());
}

#[test]
fn unknown_directives_are_named() {
    let error = body("  .frobnicate 3;").expect_err("unknown");
    assert_eq!(
        (error.line, error.column, error.token.as_str()),
        (5, 3, ".frobnicate")
    );
    assert!(error.expected.contains(&".loc"));
    let message = error.to_string();
    assert!(message.starts_with("line 5, column 3: unexpected token: `.frobnicate` (expected"));
    assert!(
        module(".frobnicate")
            .expect_err("unknown")
            .expected
            .contains(&".entry")
    );
    let error = module(".entry k() .frob { ret; }").expect_err("unknown");
    assert!(error.expected.contains(&".maxntid"));
}

#[test]
fn broken_texts_are_errors() {
    for text in [
        ";",
        "mov.b32 a, b",
        "mov.b32 a b;",
        "mov.b32 a,;",
        "@ ret;",
        "ret; }",
        "{ ret;",
        "[a];",
        "mov.b32 {}, a;",
        "mov.b32 {a, a;",
        "ld.b32 r, [a;",
        "ld.b32 r, [];",
        "ld.b32 r, [a, b;",
        "call (a, f;",
        "ts: .branchtargets ;",
        "p: .callprototype (",
        ".loc 1 2",
        ".loc 1 2 3, x",
        ".pragma;",
        "add.s32 a, b, 3F;",
        ".reg .b32;",
        ".reg .b32 r<;",
        ".reg .b32 r<99999999999>;",
        "setp p|, a;",
        "mov.b32 r, -a;",
        "mov.f32 f, 0f12;",
        ".maxntid 3;",
    ] {
        assert!(body(text).is_err(), "{text}");
    }
    assert!(module(".entry k() .maxntid { ret; }").is_err());
    assert!(module(".entry k() .maxntid 1, 2, 3, 4 { ret; }").is_err());
    assert!(module(".entry k(.u32 a) { ret; }").is_err());
    assert!(module(".entry k(").is_err());
}

#[test]
fn nesting_is_limited() {
    let deep = |open: &str, close: &str, n: usize| open.repeat(n) + close;
    assert!(body(&(deep("{", "", 100) + &"}".repeat(100))).is_ok());
    assert!(body(&deep("{", "", 100_000)).is_err());
    for open in ["(", "-", "~(", "!", "1?", "1+(", "1?2:"] {
        assert!(
            body(&format!("mov.b32 r, {}1;", deep(open, "", 100_000))).is_err(),
            "{open}"
        );
    }
    assert!(body(&format!("ld.b32 r, {}", "[".repeat(100_000))).is_err());
    assert!(body(&format!("mov.b32 r, {}", "{".repeat(100_000))).is_err());
    let sum = format!("mov.b32 r, 1{};", "+1".repeat(10_000));
    assert!(body(&sum).is_ok(), "long is not deep");
}

/// Cutting a text anywhere, or replacing any byte, gives a module or an error.
#[test]
fn mutilated_texts_never_panic() {
    let text = ".version 8.5\n.target sm_80\n.global .f32 m[2][2] = {{1.0}, {0f40000000}};\n\
        .visible .entry k(.param .u64 .ptr .align 4 p)\n.maxntid 32 {\n.reg .b32 %r<4>;\n\
        @!p bra L; .loc 1 2 3, inlined_at 1 2 3\nL: setp.lt.and.u32 p|q, %r1, 0x1FU, !s;\n\
        { call (r), f, (a, 1); ld.v2.f32 {_, %r1}, [%rd1+(4*2)]; } t: .branchtargets L; /*\u{e9}*/ }";
    assert!(parse(text).is_ok());
    for (at, _) in text.char_indices() {
        let (before, after) = text.split_at(at);
        let rest = after.chars().next().map_or("", |c| &after[c.len_utf8()..]);
        let _ = parse(before);
        let _ = parse(after);
        for byte in [
            "", "(", "{", "[", "\"", ".", "0", "-", ":", "%", "\u{e9}", "/*", "@", "<",
        ] {
            let _ = parse(&format!("{before}{byte}{rest}"));
        }
    }
}
