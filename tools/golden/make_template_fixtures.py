"""Writes what jinja2, set up as transformers sets it up, makes of our own templates and expressions.

    python make_template_fixtures.py OUT.json

The templates are written in the manner of the public families (ChatML, Llama, Mistral, Qwen, Gemma, Phi, DeepSeek, ...)
to use their constructs; none is a copy. Offsets are in UTF-16 units, as Java counts.
"""

import datetime
import json
import sys

from transformers.utils import chat_template_utils

NOW = datetime.datetime(2026, 3, 5, 7, 8, 9, 120)

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Gives the weather <now> & \"here\".",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "Where, e.g. Zürich"},
                    "days": {"type": ["integer", "null"], "default": 1, "minimum": 0.5},
                    "tags": {"type": "array", "items": {"type": "string", "enum": ["a", "b"]}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "stop", "description": "", "parameters": {}}},
]

CONVERSATIONS = {
    "one": [{"role": "user", "content": "Hi there!"}],
    "system": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "What is 2 + 2?"},
        {"role": "assistant", "content": "4"},
    ],
    "turns": [
        {"role": "user", "content": "Name a river.\n\n"},
        {"role": "assistant", "content": "  The Aare 🏞️, for one."},
        {"role": "user", "content": "漢字 and \"quotes\" & <tags>?"},
        {"role": "assistant", "content": "Yes: 'both'\\."},
        {"role": "user", "content": "Bye"},
    ],
    "thinking": [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "<think>\nbecause\n</think>\n\nSo it is."},
        {"role": "user", "content": "Really?"},
        {"role": "assistant", "reasoning_content": "hmm", "content": "Really."},
    ],
    "calls": [
        {"role": "system", "content": "Use tools."},
        {"role": "user", "content": "Weather in Zürich?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2, "tags": []}},
                },
                {"id": "call00002", "type": "function", "function": {"name": "stop", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "call00001", "name": "weather", "content": "{\"t\": 3.5}"},
        {"role": "tool", "tool_call_id": "call00002", "name": "stop", "content": "done"},
        {"role": "assistant", "content": "It is 3.5 degrees."},
    ],
    "parts": [
        {"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "nice?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Very."}]},
    ],
    "odd": [{"role": "assistant", "content": "I begin."}, {"role": "assistant", "content": "And go on."}],
    "none": [],
}

TEMPLATES = {
    "chatml": """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "chatml_default_system": """{%- if messages and messages[0].role != 'system' -%}
<|im_start|>system
You help.<|im_end|>
{% endif -%}
{% for m in messages %}
    {%- if m.content is string %}
<|im_start|>{{ m.role }}
{{ m.content | trim }}<|im_end|>
{% endif -%}
{% endfor -%}
{{- '<|im_start|>assistant\n' if add_generation_prompt else '' -}}""",
    "chatml_generation": """{% for m in messages %}
{% if m.role == 'assistant' %}
<|im_start|>assistant
{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}

{% else %}
<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endif %}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}""",
    "llama2": """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate: user, assistant, user, ...') }}{% endif %}{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\\n' + system_message + '\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}""",
    "llama3": """{{- bos_token }}
{%- if custom_tools is defined %}
    {%- set tools = custom_tools %}
{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "1 Jan 2026" %}
    {%- endif %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{#- The first message may be the system's. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|head|>system<|/head|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: jvm\n" }}
{%- endif %}
{{- "Today: " + date_string + "\n\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "Answer with JSON to call one of:\n\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|head|>' + message['role'] + '<|/head|>\n\n'+ message['content'] | trim + '<|eot|>' }}
    {%- elif 'tool_calls' in message %}
        {%- for tool_call in message.tool_calls %}
            {%- set tool_call = tool_call.function %}
            {{- '<|head|>assistant<|/head|>\n\n' -}}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
            {{- "<|eot|>" }}
        {%- endfor %}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|head|>ipython<|/head|>\n\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|head|>assistant<|/head|>\n\n' }}
{%- endif %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the system message, roles must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS] [" }}
        {%- for tool_call in message.tool_calls %}
            {%- set out = tool_call.function|tojson %}
            {{- out[:-1] }}
            {%- if not tool_call.id is defined or tool_call.id|length != 9 %}
                {{- raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}
            {%- endif %}
            {{- ', "id": "' + tool_call.id + '"}' }}
            {%- if not loop.last %}
                {{- ", " }}
            {%- else %}
                {{- "]" + eos_token }}
            {%- endif %}
        {%- endfor %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token }}
    {%- elif message["role"] == "tool_results" or message["role"] == "tool" %}
        {%- if message.content is defined and message.content.content is defined %}
            {%- set content = message.content.content %}
        {%- else %}
            {%- set content = message.content %}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' + content|string + ", " }}
        {{- '"call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
""",
    "qwen3": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nSignatures within <tools></tools>:\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}""",
    "gemma": """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
""",
    "phi": """{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + (message['content'] or '') + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}""",
    "deepseek": """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(is_first=false, is_tool=false, is_output_first=true, system_prompt='', is_first_sp=true) %}{%- for message in messages %}{%- if message['role'] == 'system' %}{%- if ns.is_first_sp %}{% set ns.system_prompt = ns.system_prompt + message['content'] %}{% set ns.is_first_sp = false %}{%- else %}{% set ns.system_prompt = ns.system_prompt + '\\n\\n' + message['content'] %}{%- endif %}{%- endif %}{%- endfor %}{{ bos_token }}{{ ns.system_prompt }}{%- for message in messages %}{%- if message['role'] == 'user' %}{%- set ns.is_tool = false -%}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and 'tool_calls' in message %}{%- set ns.is_tool = false -%}{%- for tool in message['tool_calls'] %}{%- if not ns.is_first %}{%- if message['content'] is none %}{{'<｜Assistant｜><｜calls｜><｜call｜>' + tool['type'] + '<｜sep｜>' + tool['function']['name'] + '\\n' + '```json' + '\\n' + tool['function']['arguments']|tojson + '\\n' + '```' + '<｜/call｜>'}}{%- else %}{{'<｜Assistant｜>' + message['content'] + '<｜calls｜>'}}{%- endif %}{%- set ns.is_first = true -%}{%- else %}{{'\\n' + '<｜call｜>' + tool['function']['name'] + '<｜/call｜>'}}{%- endif %}{%- endfor %}{{'<｜/calls｜><｜end▁of▁sentence｜>'}}{%- endif %}{%- if message['role'] == 'assistant' and 'tool_calls' not in message %}{%- if ns.is_tool %}{{'<｜/outputs｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}{%- set ns.is_tool = false -%}{%- else %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endif %}{%- if message['role'] == 'tool' %}{%- set ns.is_tool = true -%}{%- if ns.is_output_first %}{{'<｜outputs｜><｜output｜>' + message['content'] + '<｜/output｜>'}}{%- set ns.is_output_first = false %}{%- else %}{{'<｜output｜>' + message['content'] + '<｜/output｜>'}}{%- endif %}{%- endif %}{%- endfor -%}{% if ns.is_tool %}{{'<｜/outputs｜>'}}{% endif %}{% if add_generation_prompt and not ns.is_tool %}{{'<｜Assistant｜><think>\\n'}}{% endif %}""",
    "zephyr": """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}""",
    "vicuna": """{%- set ns = namespace(sep=' ', names={'user': 'USER', 'assistant': 'ASSISTANT'}) -%}
{%- for m in messages if m.role in ns.names -%}
{{ ns.names[m.role] }}: {{ m.content if m.content is string else m.content | map(attribute='text', default='') | join }}{{ eos_token if m.role == 'assistant' else ns.sep }}
{%- else -%}
(nothing said)
{%- endfor -%}
{%- if add_generation_prompt %}ASSISTANT:{% endif -%}""",
    "alpaca": """{% set roles = {'user': '### Instruction:', 'assistant': '### Response:', 'system': '### Context:'} %}
{% for m in messages %}
{{ roles.get(m.role, '### ' ~ m.role | upper ~ ':') }}
{{ (m.content or '') | string | indent(2, first=true) }}

{% endfor %}
{%+ if add_generation_prompt -%}
    ### Response:
{% endif %}""",
    "command": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% elif false == true %}{% set loop_messages = messages %}{% set system_message = 'You are large.' %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<|T|><|SYS|>' + system_message.strip() + '<|/T|>' }}{% endif %}{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|T|><|USER|>' + content.strip() + '<|/T|>' }}{% elif message['role'] == 'assistant' %}{{ '<|T|><|BOT|>'  + content.strip() + '<|/T|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|T|><|BOT|>' }}{% endif %}""",
    "macros": """{%- macro render_content(content, sep='') -%}
    {%- if content is string -%}
        {{- content | trim -}}
    {%- elif content is none -%}
    {%- else -%}
        {%- for item in content -%}
            {%- if item.type == 'text' -%}{{ item.text }}{%- else -%}<{{ item.type | upper }}>{%- endif -%}{{ sep if not loop.last }}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- macro turn(role, name=none) -%}
<{{ role }}{% if name %} name={{ name }}{% endif %}>{{ caller() }}</{{ role }}>
{% endmacro -%}
{%- for m in messages -%}
{% call turn(m.role, name=m.get('name')) %}{{ render_content(m.content, sep='|') }}{% endcall %}
{%- endfor -%}
{%- if add_generation_prompt %}<assistant>{% endif %}""",
    "json_schema": """{%- macro type_of(schema) -%}
    {%- if schema.type is string -%}
        {%- if schema.type == 'array' and schema['items'] is defined -%}
            {{ type_of(schema['items']) }}[]
        {%- elif schema.type == 'object' -%}
            {
            {%- for key, value in (schema.properties or {}).items() -%}
                {{ key }}{{ '' if key in (schema.required or []) else '?' }}: {{ type_of(value) }}{{ ', ' if not loop.last }}
            {%- endfor -%}
            }
        {%- else -%}
            {{ {'string': 'str', 'integer': 'int'}[schema.type] | default('any') }}
        {%- endif -%}
    {%- elif schema.type is sequence -%}
        {{ schema.type | join(' | ') }}
    {%- else -%}
        any
    {%- endif -%}
{%- endmacro -%}
{%- if tools -%}
{%- for tool in tools | map(attribute='function') -%}
// {{ tool.description | default('', true) | replace('\\n', ' ') }}
function {{ tool.name }}({{ type_of(tool.parameters) }});
{% endfor -%}
{%- endif -%}
{%- for m in messages -%}
[{{ m.role | title }}] {{ m.content if m.content is string else m | tojson }}
{% endfor -%}""",
    "dict_printing": """{% for m in messages %}{{ m }}
{% endfor %}{{ tools }}|{{ tools | length if tools else 0 }}|{{ messages | map(attribute='role') | unique | list }}""",
    "counting": """{%- set ns = namespace(users=0, chars=0) -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{%- set ns.users = ns.users + 1 -%}{%- endif -%}
{%- if m.content is string %}{%- set ns.chars = ns.chars + m.content | length -%}{%- endif -%}
{%- endfor -%}
{{ ns.users }}/{{ messages | length }} {{ ns.chars }} {{ '%.2f' | format(ns.chars / (messages | length or 1)) }} {{ ns.chars // 7 }} {{ ns.chars % 7 }} {{ 2 ** ns.users }}""",
    "breaks": """{%- for m in messages -%}
{%- if m.role == 'system' -%}{%- continue -%}{%- endif -%}
{%- if loop.index > 3 -%}...{%- break -%}{%- endif -%}
{{ loop.index }}:{{ loop.revindex }}:{{ loop.first }}:{{ loop.last }} {{ m.role }}>{{ loop.previtem.role if loop.previtem is defined else '-' }}<{{ loop.nextitem.role if not loop.last else '-' }};
{%- endfor -%}""",
    "set_blocks": """{% set system %}
{% for m in messages if m.role == 'system' %}
{{ m.content }}
{%- endfor %}
{% endset %}
{% set shout | upper | trim %} {{ messages[-1].content or 'nothing' }} {% endset %}
[{{ system | trim }}][{{ shout }}]
{% filter lower | replace('hi', 'ho') %}{% for m in messages %}{{ m.content or '' }};{% endfor %}{% endfilter %}""",
    "with_blocks": """{% with first = messages[0], n = messages | length %}{{ first.role }} of {{ n }}{% endwith %}
{%- with %}{% set inner = 1 %}{% endwith %}{{ inner is defined }}""",
    "raw_and_comments": """{# a comment
over lines #}
{% raw %}{{ not this }} {% nor this %}{% endraw %}
{#- tight -#}
  x {#+ kept #} y
    {# indented #}
{%- raw -%}   stripped   {%- endraw -%}
end""",
    "whitespace": """   {% if true %}
  a
   {%- if true %}  b  {%- endif +%}
  c {{- ' d ' -}} e
{%+ if true %}f{% endif %}
	{% if true -%}

    g
{%- endif %}

{% endif %}
{{ 'h' }}
{{ 'i' }}  
   {%+ if true -%} j {%- endif %}   
k
""",
    "trailing_newlines": "a\n{% if true %}\nb\n{% endif %}\n\n",
    "crlf": "a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc\r\n",
    "date": """{{ strftime_now('%Y-%m-%d') }} {{ strftime_now("%d %B %Y, %A %H:%M:%S %p %j %y %b %a %I %-d %%") }}""",
    "generation_loop": """{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{% set inside = 'x' %}🙂{{ m.content or '' }}{% endgeneration %}{{ inside is defined }}{% else %}{{ m.role }}🙂{% endif %}{% endfor %}""",
    "generation_trimmed": """{%- for m in messages -%}
    {%- if m.role == 'assistant' -%}
        {{- 'A: ' -}}
        {%- generation -%}
            {{- m.content if m.content is string else 'parts' }}{{ eos_token -}}
        {%- endgeneration -%}
    {%- else -%}
        {{- m.role[0] | upper ~ ': ' ~ (m.content if m.content is string else 'parts') ~ '\n' -}}
    {%- endif -%}
{%- endfor -%}""",
    "granite": """{%- set roles = ['system', 'user', 'assistant', 'tool'] %}
{%- set seen = namespace(first=none, roles=[]) %}
{%- for m in messages %}
{%- if m.role not in roles %}{{ raise_exception('Unknown role: ' ~ m.role) }}{% endif %}
{%- if seen.first is none %}{% set seen.first = loop.index0 %}{% endif %}
{%- set seen.roles = seen.roles + [m.role] %}
{%- endfor %}
{{- seen.roles }} {{ seen.first }} {{ seen.roles | first | default('?') }} {{ seen.roles[-1:] }} {{ seen.roles[::2] }}
{%- if documents %}
{%- for d in documents %}
<doc id={{ loop.index }}>{{ d.title | default('untitled', true) }}: {{ d['text'] | truncate(20) }}</doc>
{%- endfor %}
{%- endif %}""",
    "hermes": """{%- macro json_to_python_type(json_spec) %}
{%- set basic_type_map = {
    "string": "str",
    "number": "float",
    "integer": "int",
    "boolean": "bool"
} %}
{%- if basic_type_map[json_spec.type] is defined %}
    {{- basic_type_map[json_spec.type] }}
{%- elif json_spec.type == "array" %}
    {{- "list[" +  json_to_python_type(json_spec|items|selectattr(0, 'eq', 'items')|map(attribute=1)|first) + "]"}}
{%- elif json_spec.type is iterable and json_spec.type is not string %}
    {{- "Union[" }}
    {%- for t in json_spec.type %}
      {{- json_to_python_type({"type": t}) }}
      {%- if not loop.last %}
        {{- "," }}
      {%- endif %}
    {%- endfor %}
    {{- "]" }}
{%- else %}
    {{- "Any" }}
{%- endif %}
{%- endmacro %}
{%- for tool in tools or [] %}
{%- set f = tool.function if tool.function is defined else tool %}
{{- '\n' ~ f.name ~ '(' }}
{%- for name, fields in (f.parameters.properties | default({})) | items %}
{{- name ~ ': ' ~ json_to_python_type(fields) }}{{ ', ' if not loop.last }}
{%- endfor %}
{{- ')' }}
{%- endfor %}
{%- for m in messages %}
{{- '\n' ~ loop.cycle('odd', 'even') ~ ' ' ~ m.role ~ (' *' if loop.changed(m.role)) }}
{%- endfor %}""",
}

EXPRESSIONS = [
    # printing
    "[1, 'a', none, true, 2.5, (1,), (), {'k': [], 'q': \"it's\"}]", "{'a': 1, 2: 'b', none: true}", "none", "true", "1.0",
    "1e16", "1e15", "1e-5", "0.0001", "123456789.123", "0.1 + 0.2", "1/3", "-0.0", "10/2", "2.50", "1_000", "0x1F", "0b101",
    "['tab\\t', 'nl\\n', 'back\\\\', 'é', '\\u200b', '😀', '\\x7f', \"'\", '\"', '\\'\"']", "'a\\tb\\\"c\\d\\x41\\u00e9\\101'",
    "'a' 'b'", "('x',)", "1, 2", "'' is none",
    # arithmetic
    "7 // 2", "-7 // 2", "7 % 3", "-7 % 3", "7 % -3", "7.5 // 2", "3 % 0.1", "-1 // 0.3", "0.3 is even", "nope is callable", "[{'a': 1}, {}] | sort(attribute='b')", "-7.5 % 2", "2 ** 10", "2 ** -1", "2 ** 3 ** 2", "-2 ** 2", "1 + 2 * 3 - 4 / 2",
    "'ab' * 3", "3 * 'ab'", "[1] * 3", "[1] + [2]", "(1,) + (2,)", "'a' + 'b'", "true + 1", "1 ~ 2 ~ none ~ [1]", "'n: %d, %s' % (3, 'x')", "'%05.1f|%-5s|%+d|%x' % (3.14159, 'ab', 4, 255)", "'%s' % 'one'", "'%(a)s' % {'a': 1}", "+3", "- -3", "-1 | abs", "5 | round", "2.5 | round", "3.14159 | round(2)", "2.1 | round(0, 'ceil')", "2.9 | round(method='floor')",
    # comparison and logic
    "1 < 2 < 3", "1 < 3 < 2", "1 == 1.0", "true == 1", "'a' < 'b'", "[1, 2] < [1, 3]", "'a' in 'cat'", "2 in [1, 2]", "'k' in {'k': 1}", "'x' not in 'abc'", "not 1 == 2", "not false and true", "1 or 0", "0 or ''", "'' or 'd'", "1 and 2", "0 and 2", "none == none", "nope == nope2", "nope is defined", "1 if 0", "1 if 0 else 2 if 0 else 3", "(1, 2) == (1, 2)", "[1] == (1,)", "{'a': 1} == {'a': 1.0}", "'a' == 1", "nope ~ 'x'", "nope | length", "not nope", "1 != 2", "3 >= 3 > 2", "'b' > 'a'",
    # strings
    "' a b '.strip()", "'xxaxx'.strip('x')", "'xxaxx'.lstrip('x')", "'xxaxx'.rstrip('x')", "'\\u3000a\\xa0'.strip()", "'a,b,c'.split(',')", "'a,b,c'.split(',', 1)", "' a  b '.split()", "' a  b c '.split(none, 1)", "'a,b,c'.rsplit(',', 1)", "' a b  c '.rsplit(none, 1)", "'a\\nb\\r\\nc'.splitlines()", "'a\\nb'.splitlines(true)", "'abc'.startswith('ab')", "'abc'.startswith(('x', 'a'))", "'abc'.endswith('bc')", "'abc'.startswith('b', 1)", "'aXbX'.replace('X', '-')", "'aXbX'.replace('X', '-', 1)", "'ab'.replace('', '.')", "'hello wORLD'.title()", "'hello wORLD'.capitalize()", "'they\\'re'.title()", "'Ab'.swapcase()", "'abcabc'.find('c')", "'abcabc'.find('z')", "'abcabc'.rfind('c')", "'abcabc'.find('a', 1)", "'abcabc'.count('bc')", "'aaa'.count('aa')", "'abc'.index('b')", "'-'.join(['a', 'b'])", "'{} and {} {x!r} {y:>5} {z:.2f} {{}}'.format('q', 1, x='s', y='r', z=2)", "'{0}-{1}'.format(1, 2)", "'{:,}'.format(1234567)", "'{:,.2f} {:>8,}'.format(-1234567.891, 1234)", "'7'.zfill(3)", "'-7'.zfill(4)", "'a'.ljust(3) ~ '|'", "'a'.rjust(3, '.')", "'ab'.center(5, '*')", "'a'.center(4, '*')", "'abc'.isalpha()", "'12'.isdigit()", "'a1'.isalnum()", "' '.isspace()", "'AB'.isupper()", "'ab1'.islower()", "'Ab Cd'.istitle()", "'a-b-c'.partition('-')", "'a-b-c'.rpartition('-')", "'abc'.partition('x')", "'prefix-x'.removeprefix('prefix-')", "'x.py'.removesuffix('.py')", "'ß'.upper()", "'İ'.lower() | length", "'abc'[1]", "'abc'[-1]", "'abc'[1:]", "'abc'[:-1]", "'abcdef'[::2]", "'abc'[::-1]", "'a😀b'[1]", "'a😀b' | length", "'a😀b'[::-1]", "'a😀b'.find('b')", "'abc'[5] is defined", "'abc'[5:]", "'abc'[-5:2]",
    # lists and dicts
    "[1, 2, 3][-1]", "[1, 2, 3][1:]", "[1, 2, 3][::-1]", "[1, 2, 3][5] is defined", "[1, 2, 3].index(2)", "[1, 2, 1].count(1)", "(1, 2, 3)[1:]", "[1, 2, 3, 4][3:0:-2]", "[][0] | default('none')", "{'a': 1}.get('a')", "{'a': 1}.get('b')", "{'a': 1}.get('b', 2)", "{'a': 1}['a']", "{'a': 1}.a", "{'a': 1, 'b': 2}.items() | list", "{'a': 1}.keys() | list", "{'a': 1}.values() | list", "{'items': 5}['items']", "{'a': {'b': [1, {'c': 'deep'}]}}.a.b[1].c", "{'a': 1}.nope is defined", "[1, 2][0:1] + [9]", "dict(a=1, b=2)", "dict({'x': 1}, y=2)", "namespace(a=1).a", "range(3) | list", "range(1, 10, 3) | list", "range(3, 0, -1) | list", "range(5)[1:3] | list", "none.x is defined", "[[1, 2], [3]] | sum(start=[])", "('a', 'b').index('b')", "[1, [2]].copy()", "'abc' | list",
    # filters
    "' a ' | trim", "'xax' | trim('x')", "'aB' | upper ~ ('aB' | lower)", "'hello (wORLD) a-b' | title", "'hELLO' | capitalize", "'aaa' | replace('a', 'b', 2)", "[1, 2] | join", "['a', none, 3] | join(', ')", "[{'n': 'x'}, {'n': 'y'}] | join('-', attribute='n')", "nope | default('d')", "none | default('d')", "none | default('d', true)", "'' | default('d', boolean=true)", "'' | d('e')", "[3, 1, 2] | sort", "['b', 'A', 'c'] | sort", "['b', 'A', 'c'] | sort(case_sensitive=true)", "[3, 1, 2] | sort(reverse=true)", "[{'a': 2}, {'a': 1}] | sort(attribute='a')", "{'b': 1, 'A': 2} | dictsort", "{'b': 1, 'a': 2} | dictsort(by='value')", "{'b': 1, 'a': 2} | dictsort(reverse=true)", "[1, 2, 1, 'A', 'a'] | unique | list", "[1, 2, 3] | reverse | list", "'abc' | reverse", "[1, 2, 3] | first", "[1, 2, 3] | last", "'abc' | first", "[] | first is defined", "{'a': 1} | length", "'12' | int", "'x' | int", "'x' | int(7)", "'3.7' | int", "'ff' | int(base=16)", "3.9 | int", "'2.5' | float", "'x' | float", "3 | float", "5 | string ~ '!'", "['1', '2'] | map('int') | list", "['a', 'b'] | map('upper') | join", "['a-b'] | map('replace', '-', '+') | list", "[{'a': {'b': 1}}] | map(attribute='a.b') | list", "[{'a': 1}, {}] | map(attribute='a', default=0) | list", "[1, 0, 2] | select | list", "[1, 2, 3] | select('odd') | list", "[1, 2, 3] | reject('odd') | list", "[1, 2, 3] | select('gt', 1) | list", "[1, 'a'] | select('string') | list", "[{'r': 'u', 'x': 1}, {'r': 'a'}] | selectattr('r', 'equalto', 'u') | list", "[{'r': 'u'}, {'r': 'a'}] | rejectattr('r', '==', 'u') | list", "[{'x': 1}, {}] | selectattr('x') | list", "[{'x': 1}, {}] | selectattr('x', 'defined') | list", "[{'x': none}] | selectattr('x', 'none') | list", "[{'r': 'u'}] | selectattr('r', 'in', ['u', 'v']) | list", "[1, 2, 3] | sum", "[{'a': 1}, {'a': 2}] | sum(attribute='a')", "[3, 1] | min", "[3, 1] | max", "['b', 'A'] | min", "'a\\nb\\n\\nc' | indent", "'a\\nb' | indent(2, true)", "'a\\n\\nb' | indent(2, blank=true)", "'a\\nb' | indent('> ')", "'a\\nb\\n' | indent ~ '|'", "'one two three four five' | truncate(12)", "'one two three' | truncate(9, true, '')", "'one two three' | truncate(8, false, '..', 0)", "'a b c' | wordcount", "'<a href=\"x\">&\\'</a>' | escape", "'<b>' | safe", "'a b/ü~*' | urlencode", "[1, 2, 3, 4, 5] | batch(2) | list", "[1, 2, 3] | batch(2, 0) | list", "[{'g': 'x', 'v': 1}, {'g': 'y', 'v': 2}, {'g': 'x', 'v': 3}] | groupby('g') | map('last') | list", "'%s-%s' | format('a', 1)", "{'a': 1} | items | list", "nope | items | list", "nope | list", "'x' | center(5) ~ '|'", "-5 | abs", "[[1, 2], [3, 4]] | map('first') | list", "['a', 'b'] | map('length') | sum",
    # tojson
    "{'a': [1, 2.0, none, true, 'é<>&\\'\"\\n\\u2028/'], 'b': {}} | tojson", "[] | tojson", "{} | tojson(indent=2)", "{'a': [1, {'b': 2}], 'c': []} | tojson(indent=2)", "{'b': 1, 'a': 2} | tojson(sort_keys=true)", "'é😀' | tojson(ensure_ascii=true)", "[1, 2] | tojson(separators=(',', ':'))", "{'a': 1} | tojson(indent=2, separators=(',', ': '))", "{1: 'x', none: 2, 2.5: 3} | tojson", "{true: 1} | tojson", "(1, 2) | tojson", "1e20 | tojson", "'\\x00\\x1f\\x7f' | tojson", "{'k': 'v'} | tojson | length", "[1, [2, [3]]] | tojson(indent=4)",
    # tests
    "1 is number", "true is number", "'a' is number", "1.5 is float", "1 is integer", "true is integer", "true is boolean", "1 is boolean", "'a' is string", "{} is mapping", "[] is mapping", "[] is sequence", "{} is sequence", "'a' is sequence", "1 is sequence", "'a' is iterable", "1 is iterable", "nope is iterable", "none is none", "1 is not none", "true is true", "1 is true", "false is false", "0 is false", "3 is odd", "4 is even", "6 is divisibleby 3", "6 is divisibleby(4)", "'a' is in ['a']", "'ab' is lower", "'AB' is upper", "1 is eq 1", "2 is gt(1)", "1 is lessthan 2", "range is callable", "1 is callable", "none is sameas none", "'x' is sameas 'y'", "nope is undefined", "'upper' is filter", "'odd' is test", "x is defined and x is none", "y is not defined or y", "(1, 2) is sequence", "3 is ne 4",
    # variables given
    "s.u", "s.items() | list", "n", "f", "l | sort | join('/')", "l[::-1]", "d.nested.list[0]", "x", "b", "b and 'yes' or 'no'", "z | length", "z[0]", "d | tojson", "d", "l | map('string') | join", "big", "(l | length) ~ ' items'", "d['nested']['list'][-1] if d.nested is mapping else ''", "d.get('nested', {}).get('none', 'fallback')",
]

STATEMENTS = {
    "if_sets_outside": "{% if true %}{% set a = 1 %}{% endif %}{{ a }}",
    "for_sets_inside": "{% set a = 1 %}{% for i in [1, 2] %}{{ a }}{% set a = a + i %}{{ a }},{% endfor %}{{ a }}",
    "nested_loops": "{% for i in [1, 2] %}{% for j in 'ab' %}{{ loop.index }}{{ loop.depth }}{{ i }}{{ j }} {% endfor %}{{ loop.index }}{{ loop.depth0 }};{% endfor %}",
    "loop_filter_length": "{% for i in range(6) if i is odd %}{{ i }}/{{ loop.length }}{{ loop.index0 }}{{ loop.revindex0 }} {% endfor %}",
    "loop_else": "{% for i in [] %}x{% else %}empty{% endfor %}{% for i in nope %}x{% else %}{% set q = 1 %}undefined{% endfor %}{{ q is defined }}",
    "loop_unpack": "{% for k, v in {'a': 1, 'b': [2]}.items() %}{{ k }}={{ v }};{% endfor %}{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "loop_dict_keys": "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}",
    "loop_string": "{% for c in 'a😀é' %}[{{ c }}]{% endfor %}",
    "set_tuple": "{% set a, b = 1, 'two' %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}",
    "macro_args": "{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}|{{ m(1, c=3) }}|{{ m(1, 2, 3, 4) }}|{{ m(*[7, 8]) }}|{{ m(**{'a': 5, 'z': 6}) }}",
    "macro_missing_arg": "{% macro m(a) %}[{{ a }}]{{ a is defined }}{% endmacro %}{{ m() }}",
    "macro_closure": "{% set x = 1 %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% set x = 2 %}{{ m() }}",
    "macro_no_leak": "{% macro m() %}{% set y = 3 %}{{ y }}{% endmacro %}{{ m() }}{{ y is defined }}",
    "macro_recursive": "{% macro fact(n) %}{{ 1 if n <= 1 else n * fact(n - 1) | int }}{% endmacro %}{{ fact(5) }}",
    "macro_filters_result": "{% macro m() %}  a  {% endmacro %}[{{ m() | trim }}][{{ m().strip() | upper }}]{{ m() is string }}",
    "macro_name": "{% macro m(a, b) %}{% endmacro %}{{ m.name }}{{ m.arguments }}",
    "call_with_args": "{% macro each(items) %}{% for i in items %}{{ caller(i) }};{% endfor %}{% endmacro %}{% call(x) each([1, 2]) %}<{{ x }}>{% endcall %}",
    "namespace": "{% set ns = namespace(a=1, found=false) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% if i == 1 %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.a }}{{ ns.found }}{{ ns.nope is defined }}{{ ns['a'] }}",
    "namespace_from_dict": "{% set ns = namespace({'x': 1}, y=2) %}{{ ns.x }}{{ ns.y }}",
    "shadowing": "{% for message in [1] %}{% set message = message + 1 %}{{ message }}{% endfor %}{{ message is defined }}",
    "loop_var_shadow": "{% set i = 'out' %}{% for i in [1] %}{{ i }}{% endfor %}{{ i }}",
    "inline_for_if_else": "{% for m in [{'r': 'a'}, {'r': 'b'}] if m.r == 'b' %}{{ m.r }}{{ loop.first }}{% else %}no{% endfor %}",
    "set_block_filter": "{% set a | upper %}abc{% endset %}{{ a }}{% set b %}{{ 1 + 1 }}{% endset %}{{ b + '!' }}",
    "filter_block": "{% filter upper | replace('B', '_') %}abc{% endfilter %}",
    "with": "{% set a = 1 %}{% with a = 2, b = a %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "break_in_if": "{% for i in range(5) %}{% if i == 3 %}{% break %}{% elif i == 1 %}{% continue %}{% endif %}{{ i }}{% endfor %}",
    "break_nested": "{% for i in range(3) %}{% for j in range(3) %}{% if j > i %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}",
    "joiner": "{% set comma = joiner('; ') %}{% for i in [1, 2, 3] %}{{ comma() }}{{ i }}{% endfor %}",
    "print": "{% print 1 + 1 %}",
    "braces_in_tag": "{{ {'a': {'b': 1}}['a'] }}{{ {'x': '}}'}['x'] }}{{ '{{' }}{{ \"%}\" }}",
    "block": "{% block body %}x{% endblock %}",
    "autoescape": "{% autoescape false %}<{% endautoescape %}",
    "comment_in_loop": "{% for i in [1, 2] %}{# {{ i }} #}{{ i }}{% endfor %}",
    "method_on_missing_key": "{{ {'name': 'x'}.name }}{{ {'items': [1]}['items'] }}{{ {'get': 3}['get'] }}",
    "items_of_none_default": "{% for k, v in (d.nested.nope or {}).items() %}x{% endfor %}.",
    "undefined_loop_attr": "{{ s.nope.__class__ if (s.nope is defined) else 'none' }}",
    "dunder": "{{ ''.__class__ }}|{{ ().__class__ is defined }}|{{ [].append }}",
    "chained_filters_tests": "{{ ['a', ''] | map('length') | select('>', 0) | list | length is eq 1 }}",
    "deep_if": "{% if a is not defined and (1 > 2 or not false) and 'x' not in ['y'] %}yes{% elif 1 %}no{% else %}never{% endif %}",
    "unicode_names": "{% set größe = 3 %}{{ größe }}",
    "generation_in_macro_text": "{% for m in [1] %}{% generation %}g{% endgeneration %}{% endfor %}z{% generation %}{% endgeneration %}",
}

ERRORS = {
    "raise": "{{ raise_exception('No <way>: ' ~ 1) }}",
    "undefined_attribute": "\n\n{{ nope.x }}",
    "undefined_item": "{{ nope['x'] }}",
    "undefined_call": "{{ nope() }}",
    "undefined_add": "{{ nope + 'x' }}",
    "undefined_deep": "{{ s.a.b }}",
    "none_add": "{{ 'a' + none }}",
    "str_int": "{{ 'a' + 1 }}",
    "order": "{{ 1 < 'a' }}",
    "iterate_int": "{% for i in 5 %}{% endfor %}",
    "iterate_none": "{% for i in none %}{% endfor %}",
    "append": "{% set l = [] %}{{ l.append(1) }}",
    "pop": "{{ {'a': 1}.pop('a') }}",
    "update": "{{ {'a': 1}.update({'b': 2}) }}",
    "set_on_dict": "{% set d2 = {} %}{% set d2.x = 1 %}",
    "namespace_underscore": "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "division": "{{ 1 / 0 }}",
    "modulo": "{{ 1 % 0 }}",
    "unknown_filter": "{{ 1 | nofilter }}",
    "unknown_test": "{{ 1 is notest }}",
    "unknown_tag": "{% frobnicate %}",
    "unclosed_if": "{% if true %}x",
    "unclosed_var": "{{ x",
    "unclosed_comment": "{# x",
    "stray_end": "x{% endif %}",
    "bad_expression": "{{ 1 + }}",
    "bad_bracket": "{{ (1] }}",
    "too_many_args": "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
    "unknown_kwarg": "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "unpack": "{% for a, b in [[1, 2, 3]] %}{% endfor %}",
    "include": "{% include 'x' %}",
    "join_int": "{{ ','.join([1]) }}",
    "in_int": "{{ 1 in 5 }}",
    "int_in_str": "{{ 1 in 'a1' }}",
    "empty_sep": "{{ 'a'.split('') }}",
    "index_missing": "{{ 'a'.index('b') }}",
    "length_int": "{{ 5 | length }}",
    "json_undefined": "{{ nope | tojson }}",
    "dunder_call": "{{ ''.__class__.__mro__ }}",
    "slice_of_number": "{{ f[1:] }}",
    "slice_of_dict": "{{ s[:2] }}",
    "undefined_int": "{{ nope | int }}",
    "call_str": "{{ 'a'() }}",
    "range_huge": "{{ range(1000000) }}",
    "empty_expression": "{{ }}",
    "set_constant": "{% set true = 1 %}",
    "format_places": "{{ '%s %s' % ('a',) }}",
    "format_left": "{{ '%s' % ('a', 'b') }}",
}

VARIABLES = {
    "s": {"u": "ü", "k": [1]},
    "n": None,
    "f": 0.1,
    "l": [3, 1, 2],
    "d": {"nested": {"list": ["a", "b"], "none": None}, "é": 1.5},
    "x": None,
    "b": True,
    "z": "z😀",
    "big": 9007199254740993,
}


def utf16(text, index):
    return len(text[:index].encode("utf-16-le")) // 2


def render(template, variables):
    compiled = chat_template_utils._compile_jinja_template(template)
    compiled.environment.globals["strftime_now"] = lambda pattern: NOW.strftime(pattern)
    blocks, spans = [], []
    with compiled.environment.activate_tracker(blocks, spans):
        for block in compiled.generate(**variables):
            blocks.append(block)
    text = "".join(blocks)
    return text, [[utf16(text, a), utf16(text, b)] for a, b in spans]


def case(name, template, variables):
    out = {"name": name}
    try:
        out["text"], spans = render(template, variables)
        if spans:
            out["generated"] = spans
    except Exception as e:  # whatever stops jinja2 must stop us
        out["error"] = f"{type(e).__name__}: {e}"
    return out


def main(target):
    chats = []
    for name, template in TEMPLATES.items():
        for talk, messages in CONVERSATIONS.items():
            for prompt in (False, True) if talk in ("one", "turns", "calls") else (False,):
                for extra in ("", "tools", "no_thinking"):
                    if extra == "tools" and talk not in ("one", "calls") or extra == "no_thinking" and name != "qwen3":
                        continue
                    given = {
                        "messages": messages,
                        "tools": TOOLS if extra == "tools" else None,
                        "documents": [{"title": "", "text": "A text that is longer than twenty."}] if name == "granite" else None,
                        "add_generation_prompt": prompt,
                        "bos_token": "<s>",
                        "eos_token": "</s>",
                    }
                    if extra == "no_thinking":
                        given["enable_thinking"] = False
                    one = case(f"{name}/{talk}{'/prompt' if prompt else ''}{'/' + extra if extra else ''}", template, given)
                    one |= {"template": name, "conversation": talk, "prompt": prompt, "extra": extra}
                    chats.append(one)
    expressions = [case(e, "{{ " + e + " }}", VARIABLES) for e in EXPRESSIONS]
    statements = [case(n, t, VARIABLES) | {"template": t} for n, t in STATEMENTS.items()]
    errors = [case(n, t, VARIABLES) | {"template": t} for n, t in ERRORS.items()]
    for one in errors:
        if "error" not in one:
            print("no error:", one)
    for one in expressions + statements:
        if "error" in one:
            print("error:", one)
    with open(target, "w", encoding="utf-8") as f:
        json.dump(
            {
                "now": NOW.isoformat(),
                "variables": VARIABLES,
                "tools": TOOLS,
                "conversations": CONVERSATIONS,
                "templates": TEMPLATES,
                "chats": chats,
                "expressions": expressions,
                "statements": statements,
                "errors": errors,
            },
            f,
            ensure_ascii=False,
            indent=0,
        )
        f.write("\n")
    print(len(chats), len(expressions), len(statements), len(errors), "cases;", sum("error" in c for c in chats), "refusals")


if __name__ == "__main__":
    main(sys.argv[1])
