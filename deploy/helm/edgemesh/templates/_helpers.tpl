{{- /* The Secret with the pre-shared key; empty if the configuration does without. */ -}}
{{- define "edgemesh.pskSecret" -}}
{{- $tunnel := default dict .Values.agent.modules.edgeTunnel -}}
{{- $psk := default dict $tunnel.psk -}}
{{- if and $tunnel.enable (ne (toString (get $psk "enable")) "false") -}}
{{- default (printf "%s-agent-psk" .Release.Name) .Values.agent.pskSecret -}}
{{- end -}}
{{- end -}}

{{- /* Labels by which tools find the agents, as those of the original. */ -}}
{{- define "edgemesh.labels" -}}
{k8s-app: kubeedge, kubeedge: edgemesh-agent}
{{- end -}}
