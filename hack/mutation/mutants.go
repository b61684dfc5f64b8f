package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// mutant is a small change of the source.
type mutant struct {
	path     string
	line     int
	kind     string
	function string
	code     string // what is changed, its first line
	edits    []edit
}

func (m mutant) String() string {
	return fmt.Sprintf("%s:%d: %s in %s: %s", filepath.Base(m.path), m.line, m.kind, m.function, m.code)
}

// edit puts text around a part of a file. In it, # is the number of the mutant.
type edit struct {
	from, to      int // offsets in the file
	before, after string
}

// mutantsOf returns all mutants of the package's files of these names, or of all its files, in the order of the source: what
// encloses another comes before it.
func mutantsOf(pkg *packages.Package, names []string) ([]mutant, error) {
	var found []mutant
	for _, syntax := range pkg.Syntax {
		file := pkg.Fset.File(syntax.FileStart)
		if len(names) > 0 && !slices.Contains(names, filepath.Base(file.Name())) {
			continue
		}
		source, err := os.ReadFile(file.Name())
		if err != nil {
			return nil, err
		}
		f := &finder{pkg: pkg, file: file, source: source, negated: map[ast.Expr]bool{}}
		for _, d := range syntax.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				f.function = fn.Name.Name
				f.returnEarly(fn)
				ast.Inspect(fn.Body, f.visit)
			}
		}
		found = append(found, f.found...)
	}
	return found, nil
}

// finder finds the mutants of a file. All that it finds compile.
type finder struct {
	pkg      *packages.Package
	file     *token.File
	source   []byte
	function string            // the one it is in
	negated  map[ast.Expr]bool // conditions may be reached in two ways
	found    []mutant
}

func (f *finder) add(kind string, at ast.Node, edits ...edit) {
	code, more, _ := strings.Cut(f.text(at), "\n")
	if more != "" {
		code += " ..."
	}
	f.found = append(f.found, mutant{f.file.Name(), f.file.Line(at.Pos()), kind, f.function, code, edits})
}

func (f *finder) text(n ast.Node) string {
	return string(f.source[f.file.Offset(n.Pos()):f.file.Offset(n.End())])
}

func (f *finder) around(n ast.Node, before, after string) edit {
	return edit{f.file.Offset(n.Pos()), f.file.Offset(n.End()), before, after}
}

func (f *finder) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BlockStmt:
		f.remove(n.List)
	case *ast.CaseClause:
		f.remove(n.Body)
		f.negate(n.List...)
	case *ast.CommClause:
		f.remove(n.Body)
	case *ast.IfStmt:
		f.negate(n.Cond)
	case *ast.ForStmt:
		f.negate(n.Cond)
	case *ast.ReturnStmt:
		f.negate(n.Results...)
	case *ast.BinaryExpr:
		f.binary(n)
	case *ast.BasicLit:
		f.offByOne(n)
	case *ast.Ident:
		if c, ok := f.pkg.TypesInfo.Uses[n].(*types.Const); ok && c.Pkg() == f.pkg.Types && c.Val().Kind() == constant.Int {
			f.offByOne(n)
		}
	case *ast.KeyValueExpr:
		ast.Inspect(n.Value, f.visit) // A key may have to be constant, and so do the next two.
		return false
	case *ast.ArrayType:
		return false
	case *ast.GenDecl:
		return n.Tok != token.CONST
	}
	return true
}

// returnEarly has a function do nothing, and return zero values: those of its results, which get names for it.
func (f *finder) returnEarly(fn *ast.FuncDecl) {
	if len(fn.Body.List) == 0 {
		return
	}
	first := f.file.Offset(fn.Body.Lbrace) + 1
	edits := []edit{{first, first, "if mutationOn(#) { return }; ", ""}}
	if results := fn.Type.Results; results != nil && len(results.List[0].Names) == 0 {
		for _, r := range results.List {
			edits = append(edits, f.around(r.Type, "_ ", ""))
		}
		if !results.Opening.IsValid() {
			edits[1] = f.around(results, "(_ ", ")")
		}
	}
	f.add("early return", fn.Name, edits...)
}

// remove leaves out statements that a function compiles without. A panic stays: it is there for what never happens, and a function
// may end with it.
func (f *finder) remove(list []ast.Stmt) {
	for _, s := range list {
		switch s := s.(type) {
		case *ast.IncDecStmt:
		case *ast.ExprStmt:
			if call, ok := s.X.(*ast.CallExpr); ok && f.text(call.Fun) == "panic" {
				continue
			}
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE || f.text(s.Lhs[0]) == "_" {
				continue
			}
		case *ast.BranchStmt:
			if s.Tok != token.CONTINUE && s.Tok != token.BREAK {
				continue
			}
		default:
			continue
		}
		f.add("removal", s, f.around(s, "if !mutationOn(#) { ", " }"))
	}
}

// negate negates those of the expressions that are of type bool.
func (f *finder) negate(list ...ast.Expr) {
	for _, e := range list {
		if e != nil && !f.negated[e] && f.isBool(e) {
			f.negated[e] = true
			f.add("negation", e, f.negation(e))
		}
	}
}

func (f *finder) isBool(e ast.Expr) bool {
	known := f.pkg.TypesInfo.Types[e]
	basic, ok := known.Type.(*types.Basic)
	return ok && known.IsValue() && basic.Info()&types.IsBoolean != 0
}

func (f *finder) negation(e ast.Expr) edit { return f.around(e, "((", ") != mutationOn(#))") }

// binary takes another operator.
func (f *finder) binary(n *ast.BinaryExpr) {
	known := f.pkg.TypesInfo.Types[n]
	if known.Value != nil {
		return
	}
	const numeric = types.IsInteger | types.IsFloat
	switch n.Op {
	case token.EQL, token.NEQ:
		f.negate(n)
	case token.LAND, token.LOR: // x && y is !(!x || !y).
		if f.isBool(n) {
			f.add("&& for ||", n, f.negation(n), f.negation(n.X), f.negation(n.Y))
		}
	case token.LSS, token.LEQ, token.GTR, token.GEQ:
		f.add("boundary", n, f.call("mutationCompare", n)...)
	case token.ADD, token.SUB, token.MUL, token.QUO:
		if basic, ok := known.Type.Underlying().(*types.Basic); ok && basic.Info()&numeric != 0 {
			f.add("arithmetic", n, f.call("mutationCompute", n)...)
		}
	}
}

// call hands the operands and the operator to a function.
func (f *finder) call(name string, n *ast.BinaryExpr) []edit {
	operator := f.file.Offset(n.OpPos)
	return []edit{f.around(n, name+"(#, ", ")"), {operator, operator + len(n.Op.String()), `, "`, `", `}}
}

// offByOne adds one to a constant of a type that has a name where it stands: it may be of a package that is not imported, or
// hidden by a variable.
func (f *finder) offByOne(n ast.Expr) {
	t := f.pkg.TypesInfo.TypeOf(n)
	basic, ok := t.Underlying().(*types.Basic)
	if !ok || basic.Info()&types.IsInteger == 0 || basic.Info()&types.IsUntyped != 0 {
		return
	}
	name := types.TypeString(t, func(p *types.Package) string {
		if p == f.pkg.Types {
			return ""
		}
		return p.Name()
	})
	if there, err := types.Eval(f.pkg.Fset, f.pkg.Types, n.Pos(), name); err == nil && there.IsType() && types.Identical(there.Type, t) {
		f.add("off by one", n, f.around(n, "(", " + "+name+"(mutationOne(#)))"))
	}
}
