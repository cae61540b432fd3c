"""Chat templates from the command line: tokenize --messages, generate --chat, batch messages."""
import json

from cli_support import Case, synth

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}"
    "{% if messages[0].content == 'bad' %}{{ raise_exception('Never say bad') }}{% endif %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}")


class Chat(Case):
    def setUp(self):
        super().setUp()
        small = synth("chat", "--family", "llama", "--size", "1MiB")
        self.model = self.copy_model(small)
        (self.model / "chat_template.jinja").write_text(TEMPLATE)
        config = json.loads((self.model / "tokenizer_config.json").read_text())
        self.bos = config["bos_token"]

    def write(self, name, value):
        path = self.folder / name
        path.write_text(value if isinstance(value, str) else json.dumps(value))
        return path

    def test_messages_render_and_take_no_further_tokens(self):
        messages = self.write("m.json", [{"role": "user", "content": " hé "}])
        out = self.run_json("tokenize", self.model, "--messages", messages)
        self.assertEqual(out["text"], f"{self.bos}<|user|>hé\n<|assistant|>")
        plain = self.run_json("tokenize", self.model, "-p", out["text"], "--no-special")
        self.assertEqual(out["ids"], plain["ids"])
        self.assertEqual(out["ids"].count(out["ids"][0]), 1, "one BOS")
        out = self.run_json("tokenize", self.model, "--messages", messages,
                            "--no-generation-prompt", "--tools",
                            self.write("t.json", [{"name": "f\u00e9", "x": [1, 2.0]}]))
        self.assertEqual(out["text"],
                         self.bos + '<|user|>hé\n[{"name": "fé", "x": [1, 2.0]}]')

    def test_failing_templates_say_why(self):
        bad = self.write("bad.json", [{"role": "user", "content": "bad"}])
        self.refused(1, "tokenize", self.model, "--messages", bad,
                     names=["chat_template.jinja", "line 2", "Never say bad"])
        self.refused(1, "generate", self.model, "--chat", "-p", "bad", names=["Never say bad"])
        for text in ("{% for %}", "{{ x.y.z }}",
                     "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"):
            (self.model / "chat_template.jinja").write_text(text)
            self.refused(1, "tokenize", self.model, "--messages", bad,
                         names=["chat_template.jinja", "line 1"])
        (self.model / "chat_template.jinja").unlink()
        self.refused(1, "tokenize", self.model, "--messages", bad, names=["no chat template"])
        good = self.write("good.jinja", "{{ messages[0].content }}")
        out = self.run_json("tokenize", self.model, "--messages", bad, "--chat-template", good)
        self.assertEqual(out["text"], "bad")
        for wrong in ("3", "[3]", "{}", "[]"):
            self.refused(1, "tokenize", self.model, "--messages", self.write("w.json", wrong),
                         "--chat-template", good)

    def test_generate_chat_is_generate_of_the_rendered_text(self):
        messages = self.write("m.json", [{"role": "user", "content": "hello"}])
        ids = self.run_json("tokenize", self.model, "--messages", messages)["ids"]
        run = ("generate", self.model, "-n", "4", "--ignore-eos")
        plain = self.run_json(*run, "--ids", ",".join(map(str, ids)))
        chat = self.run_json(*run, "--chat", "-p", "hello")
        self.assertEqual(chat["outputs"], plain["outputs"])
        self.assertEqual(chat["usage"], plain["usage"])
        lines = [{"id": 1, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4,
                  "ignore_eos": True},
                 {"id": 2, "messages": [{"role": "user", "content": "bad"}]}]
        source = self.write("in.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        target = self.folder / "out.jsonl"
        self.ok("generate", self.model, "-i", source, "-o", target)
        results = {r["id"]: r for r in map(json.loads, target.read_text().splitlines())}
        self.assertEqual(results[1]["token_ids"], plain["outputs"][0]["token_ids"])
        self.assertIn("Never say bad", results[2]["error"]["message"])
        other = self.write("other.jinja", "{{ messages[0].content }}")
        self.ok("generate", self.model, "-i", source, "-o", self.folder / "other.jsonl",
                "--chat-template", other)
        results = {r["id"]: r for r in map(json.loads, (self.folder / "other.jsonl").read_text().splitlines())}
        bare = self.run_json("tokenize", self.model, "-p", "hello", "--no-special")["ids"]
        self.assertEqual(results[1]["usage"]["prompt_tokens"], len(bare))
        self.assertNotIn("error", results[2])
        self.refused(2, "generate", self.model, "-i", source, "-o", target, "--chat",
                     names=["--chat", "messages"])
