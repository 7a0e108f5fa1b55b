// Renders a Helm chart as `helm template` does: Go templates with the Sprig library, and what Helm adds to them. Debian has no
// Helm; it has all that this is made of.
//
//	renderer CHART RELEASE NAMESPACE [-objects FILE] [-api VERSION]... [VALUES]...
//
// FILE holds the objects that `lookup` finds. VALUES are files that go over those of the chart.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

type object = map[string]interface{}

// versions are the API versions that the cluster has.
type versions []string

func (v versions) Has(wanted string) bool {
	for _, version := range v {
		if version == wanted {
			return true
		}
	}
	return false
}

func (v *versions) String() string { return strings.Join(*v, ",") }

func (v *versions) Set(version string) error {
	*v = append(*v, version)
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "renderer:", err)
		os.Exit(1)
	}
}

func read(path string) object {
	bytes, err := os.ReadFile(path)
	check(err)
	values := object{}
	check(yaml.Unmarshal(bytes, &values))
	return values
}

// merge puts what is in over into values; null takes a value away.
func merge(values, over object) {
	for key, value := range over {
		inner, isObject := value.(object)
		former, wasObject := values[key].(object)
		switch {
		case value == nil:
			delete(values, key)
		case isObject && wasObject:
			merge(former, inner)
		default:
			values[key] = value
		}
	}
}

func toYAML(value interface{}) string {
	bytes, err := yaml.Marshal(value)
	check(err)
	return strings.TrimSuffix(string(bytes), "\n")
}

func toJSON(value interface{}) string {
	bytes, err := json.Marshal(value)
	check(err)
	return string(bytes)
}

func main() {
	if len(os.Args) < 4 {
		check(fmt.Errorf("usage: renderer CHART RELEASE NAMESPACE [-objects FILE] [-api VERSION]... [VALUES]..."))
	}
	chart, release, namespace := os.Args[1], os.Args[2], os.Args[3]
	var apis versions
	flags := flag.NewFlagSet("renderer", flag.ExitOnError)
	objects := flags.String("objects", "", "the objects of the cluster")
	flags.Var(&apis, "api", "an API version of the cluster")
	check(flags.Parse(os.Args[4:]))

	values := read(filepath.Join(chart, "values.yaml"))
	for _, file := range flags.Args() {
		merge(values, read(file))
	}
	known := object{}
	if *objects != "" {
		known = read(*objects)
	}

	root := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	// Charts do not see the machine on which they are rendered.
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["toYaml"] = toYAML
	functions["toJson"] = toJSON
	functions["include"] = func(name string, data interface{}) (string, error) {
		var text strings.Builder
		err := root.ExecuteTemplate(&text, name, data)
		return text.String(), err
	}
	functions["lookup"] = func(version, kind, namespace, name string) object {
		items, _ := known["items"].([]interface{})
		for _, item := range items {
			found, _ := item.(object)
			metadata, _ := found["metadata"].(object)
			if found["apiVersion"] == version && found["kind"] == kind && metadata["namespace"] == namespace &&
				metadata["name"] == name {
				return found
			}
		}
		return object{}
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, fmt.Errorf("%s", message)
		}
		return value, nil
	}
	root.Funcs(functions)

	files, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	check(err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		check(err)
		_, err = root.New(filepath.Base(file)).Parse(string(text))
		check(err)
	}
	data := object{
		"Values":  values,
		"Chart":   read(filepath.Join(chart, "Chart.yaml")),
		"Release": object{"Name": release, "Namespace": namespace, "Service": "Helm", "IsInstall": true, "Revision": 1},
		"Capabilities": map[string]interface{}{
			"APIVersions": apis,
			"KubeVersion": object{"Version": "v1.32.0", "Major": "1", "Minor": "32"},
		},
	}
	for _, file := range files {
		name := filepath.Base(file)
		if strings.HasPrefix(name, "_") || name == "NOTES.txt" {
			continue
		}
		var text strings.Builder
		check(root.ExecuteTemplate(&text, name, data))
		rendered := strings.ReplaceAll(text.String(), "<no value>", "")
		if strings.TrimSpace(rendered) != "" {
			fmt.Printf("---\n# Source: %s\n%s\n", name, rendered)
		}
	}
}
