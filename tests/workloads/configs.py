# SPDX-License-Identifier: GPL-2.0
"""Settings and programs of the servers. `{place}` is the folder of their files."""

PHP_FPM = """
[global]
daemonize = no
error_log = {place}/php-fpm.log
[www]
user = www-data
group = www-data
listen = 127.0.0.1:9000
pm = static
pm.max_children = 12
"""
PHP = """<?php
$words = [];
for ($i = 0; $i < 20000; $i++) { $words[] = md5((string) $i); }
usleep(20000);
echo count($words);
"""
NGINX = """
user www-data;
worker_processes 2;
daemon off;
error_log {place}/nginx.log;
pid {place}/nginx.pid;
events {{ worker_connections 256; }}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:8080;
    location / {{
      include /etc/nginx/fastcgi_params;
      fastcgi_param SCRIPT_FILENAME {place}/index.php;
      fastcgi_pass 127.0.0.1:9000;
    }}
  }}
}}
"""
APACHE = """
ServerRoot {place}
ServerName localhost
Listen 127.0.0.1:8081
PidFile {place}/apache2.pid
ErrorLog {place}/apache2.log
LoadModule mpm_prefork_module /usr/lib/apache2/modules/mod_mpm_prefork.so
LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
User www-data
Group www-data
StartServers 8
MinSpareServers 8
MaxSpareServers 12
DocumentRoot {place}/htdocs
<Directory {place}/htdocs>
  Require all granted
</Directory>
"""
GUNICORN = """
import email.message, json, time
WORDS = None
def app(environment, start_response):
    global WORDS
    if WORDS is None:
        WORDS = {str(number): [number, str(number) * 4] for number in range(20000)}
    time.sleep(0.02)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(len(WORDS)).encode()]
"""
NODE = """
const words = [];
for (let i = 0; i < 100000; i++) words.push({name: 'word' + i, number: i});
require('http').createServer((_, answer) => answer.end(String(words.length)))
  .listen(Number(process.argv[1]), '127.0.0.1');
"""
SQL = b"""
select count(*) from (select md5(i::text) from generate_series(1, 20000) i) as words;
select * from pg_class natural join pg_attribute limit 2000;
"""
REDIS = "SET key{number} {number:0500}\r\n"
# Each machine writes the same, in files that only its memory holds.
VM_INIT = """#!/bin/busybox sh
/bin/busybox mkdir /tmp
/bin/busybox seq 1 300000 >/tmp/numbers
echo ready
exec /bin/busybox sleep 1000000
"""
