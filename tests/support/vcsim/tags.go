package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

const cis = "/rest/com/vmware/cis"

// Tags makes tags as a person does, over the server's own API, each of them once.
type Tags struct {
	service    *simulator.Service
	session    string
	categories map[string]string
	tags       map[string]string
}

func newTags(service *simulator.Service) *Tags {
	return &Tags{service: service, categories: map[string]string{}, tags: map[string]string{}}
}

func (t *Tags) ask(method, target string, body interface{}) (string, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	request := httptest.NewRequest(method, cis+target, bytes.NewReader(text))
	request.SetBasicAuth("somebody", "secret")
	request.Header.Set("vmware-api-session-id", t.session)
	recorder := httptest.NewRecorder()
	t.service.ServeMux.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusOK {
		return "", fmt.Errorf("%s: %d", target, recorder.Code)
	}
	var answer struct {
		Value interface{} `json:"value"`
	}
	if recorder.Body.Len() > 0 {
		if err = json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil {
			return "", err
		}
	}
	id, _ := answer.Value.(string)
	return id, nil
}

// attach gives an object a tag, `category:name`.
func (t *Tags) attach(object types.ManagedObjectReference, name string) (err error) {
	if t.session == "" {
		if t.session, err = t.ask(http.MethodPost, "/session", nil); err != nil {
			return err
		}
	}
	parts := strings.SplitN(name, ":", 2)
	if t.categories[parts[0]] == "" {
		spec := map[string]interface{}{"name": parts[0], "cardinality": "MULTIPLE", "associable_types": []string{}}
		t.categories[parts[0]], err = t.ask(http.MethodPost, "/tagging/category", map[string]interface{}{"create_spec": spec})
		if err != nil {
			return err
		}
	}
	if t.tags[name] == "" {
		spec := map[string]interface{}{"name": parts[1], "category_id": t.categories[parts[0]]}
		t.tags[name], err = t.ask(http.MethodPost, "/tagging/tag", map[string]interface{}{"create_spec": spec})
		if err != nil {
			return err
		}
	}
	body := map[string]interface{}{"object_id": map[string]string{"id": object.Value, "type": object.Type}}
	_, err = t.ask(http.MethodPost, "/tagging/tag-association/id:"+t.tags[name]+"?~action=attach", body)
	return err
}
