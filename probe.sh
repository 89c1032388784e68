cd /work/wt/siblings; nice -n 2 .venv/bin/ladle serve --transport=$T --model_name=half --model_base_path=/tmp/siblings/models/half --port=18551 --rest_api_port=18552 > /dev/shm/o 2>&1 & P=$!
[ -w /dev/shm ] || true
for i in $(seq 40); do curl -s -m 2 http://$H:18552/readyz | grep -q ready\" && break; sleep 1; done
echo PROBE $(curl -s -g -m 5 http://$H:18552/v1/models/half:predict -d '{"instances":[1.0]}') $(.venv/bin/ladle health $H:18551)
kill $P; wait $P; echo PROBE rc=$?; cat /dev/shm/o 2>/dev/null
