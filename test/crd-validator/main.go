// Command crd-validator is Kubernetes' own judgement on a CustomResourceDefinition and on objects of its kind, without an API server.
//
//	crd-validator CRD.yaml < objects.json
//
// Standard input is a JSON list of objects. Standard output is {"crd": [problem...], "objects": [{"unknown", "problems", "object"}...]}:
// what a create request with strict field validation would be told, and the object with its defaults. It exits with 0 whenever it could judge.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apiextensions-apiserver/pkg/registry/customresource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

type problem struct {
	Type   string `json:"type"`
	Field  string `json:"field"`
	Detail string `json:"detail"`
}

type verdict struct {
	// Paths that pruning removed.
	Unknown  []string       `json:"unknown"`
	Problems []problem      `json:"problems"`
	Object   map[string]any `json:"object"`
}

type answer struct {
	CRD     []problem `json:"crd"`
	Objects []verdict `json:"objects"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: crd-validator CRD.yaml < objects.json")
		os.Exit(2)
	}
	result, err := run(os.Args[1], os.Stdin)
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(result)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(path string, input io.Reader) (*answer, error) {
	crd, problems, err := load(path)
	if err != nil || len(problems) > 0 {
		return &answer{CRD: problems, Objects: []verdict{}}, err
	}
	judge, err := newJudge(crd)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(input)
	if err != nil {
		return nil, err
	}
	var objects []map[string]any
	if err := utiljson.Unmarshal(text, &objects); err != nil {
		return nil, fmt.Errorf("standard input: %w", err)
	}
	result := &answer{CRD: []problem{}, Objects: make([]verdict, 0, len(objects))}
	for _, object := range objects {
		result.Objects = append(result.Objects, judge(object))
	}
	return result, nil
}

// load decodes the file as an API server does a strict create request: unknown fields are errors, defaults are filled in.
func load(path string) (*apiextensions.CustomResourceDefinition, []problem, error) {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	decoded, _, err := codecs.UniversalDecoder(apiextensions.SchemeGroupVersion).Decode(text, nil, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	crd, ok := decoded.(*apiextensions.CustomResourceDefinition)
	if !ok {
		return nil, nil, fmt.Errorf("%s holds a %T", path, decoded)
	}
	// What the API server's own strategy sets before it validates a new definition.
	for _, version := range crd.Spec.Versions {
		if version.Storage {
			crd.Status.StoredVersions = []string{version.Name}
		}
	}
	return crd, explain(crdvalidation.ValidateCustomResourceDefinition(context.Background(), crd)), nil
}

// newJudge sets up what the API server's custom resource handler sets up for one version, and returns the path of a create request.
func newJudge(crd *apiextensions.CustomResourceDefinition) (func(map[string]any) verdict, error) {
	version := crd.Spec.Versions[0]
	validator := version.Schema
	subresources := version.Subresources
	if validator == nil { // the internal type lifts what all versions share
		validator, subresources = crd.Spec.Validation, crd.Spec.Subresources
	}
	shape, err := structural.NewStructural(validator.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	if err := defaulting.PruneDefaults(shape); err != nil {
		return nil, err
	}
	schemaValidator, _, err := validation.NewSchemaValidator(validator.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	kind := schema.GroupVersionKind{Group: crd.Spec.Group, Version: version.Name, Kind: crd.Spec.Names.Kind}
	strategy := customresource.NewStrategy(nil, crd.Spec.Scope == apiextensions.NamespaceScoped, kind, schemaValidator, nil, shape,
		subresources.Status, subresources.Scale, []v1.SelectableField{})
	ctx := context.Background()
	return func(content map[string]any) verdict {
		object := unstructured.Unstructured{Object: content}
		if object.GetNamespace() == "" {
			object.SetNamespace("default") // a request's path says the namespace
		}
		options := structural.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
		unknown := pruning.PruneWithOptions(content, shape, true, options)
		defaulting.PruneNonNullableNullsWithoutDefaults(content, shape)
		defaulting.Default(content, shape)
		problems := explain(strategy.Validate(ctx, &object))
		return verdict{Unknown: append([]string{}, unknown...), Problems: problems, Object: content}
	}, nil
}

func explain(errors field.ErrorList) []problem {
	problems := make([]problem, 0, len(errors))
	for _, e := range errors {
		problems = append(problems, problem{Type: string(e.Type), Field: e.Field, Detail: e.Detail})
	}
	return problems
}
