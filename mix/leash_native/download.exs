defmodule Mix.Tasks.Compile.LeashNative.Download do
  # Downloads by OTP's own client. curl would bring its own proxies and certificates, but slim
  # images have none, and whatever fetched this package had OTP's client.
  @moduledoc false

  # On the code path once `start/1` has asked for them.
  @compile {:no_warn_undefined, [:httpc, :inets, :public_key, :ssl]}

  @connect_timeout 10_000
  @timeout 300_000
  @profile :leash_native

  @doc "Returns the body behind an http or https URL, or why there is none, as part of a sentence."
  @spec get(String.t()) :: {:ok, binary()} | {:error, String.t()}
  def get(url) do
    with :ok <- start([:inets, :ssl]),
         {:ok, tls} <- tls(url) do
      # A profile of its own: no other client of the VM gets the proxy.
      {:ok, client} = :inets.start(:httpc, profile: @profile)

      try do
        request(url, tls)
      after
        :inets.stop(:httpc, client)
      end
    end
  end

  @doc """
  Starts applications of OTP, or returns which is missing.

  From Elixir 1.15 on, those that the project does not name are not on the code path.
  """
  @spec start([atom()]) :: :ok | {:error, String.t()}
  def start(apps) do
    Enum.find_value(apps, :ok, fn app ->
      if function_exported?(Mix, :ensure_application!, 1),
        do: apply(Mix, :ensure_application!, [app])

      case Application.ensure_all_started(app) do
        {:ok, _started} -> nil
        {:error, _reason} -> {:error, "this Erlang has no #{app} (Debian: erlang-#{app})"}
      end
    end)
  end

  defp request(url, tls) do
    {proxies, authorization} = proxies(URI.parse(url).scheme)
    :ok = :httpc.set_options(proxies, @profile)

    options =
      [timeout: @timeout, connect_timeout: @connect_timeout, autoredirect: true] ++
        tls ++ authorization

    headers = [{~c"user-agent", ~c"leash"}]
    request = {String.to_charlist(url), headers}

    case :httpc.request(:get, request, options, [body_format: :binary], @profile) do
      {:ok, {{_version, 200, _text}, _headers, body}} -> {:ok, body}
      {:ok, {{_version, status, text}, _headers, _body}} -> {:error, "#{status} #{text}"}
      {:error, reason} -> {:error, reason(reason)}
    end
  end

  defp reason({:failed_connect, details}) do
    {host, port} = Keyword.get(details, :to_address, {"?", "?"})

    why =
      case List.keyfind(details, :inet, 0) || List.last(details) do
        {_family, _options, {:tls_alert, {alert, _lines}}} -> "TLS: #{alert}"
        {_family, _options, :nxdomain} -> "its address is not known here"
        {_family, _options, why} when is_atom(why) -> :inet.format_error(why)
        why -> inspect(why)
      end

    "no connection to #{host}:#{port} (#{why})"
  end

  # Before the first byte, and between the first and the last.
  defp reason(closed) when closed in [:socket_closed_remotely, {:shutdown, :server_closed}],
    do: "the connection was closed before its end"

  defp reason(:timeout), do: "no answer within #{div(@timeout, 1_000)} s"
  defp reason(reason), do: inspect(reason)

  defp tls("http://" <> _rest), do: {:ok, []}

  defp tls(_url) do
    match = :public_key.pkix_verify_hostname_match_fun(:https)

    with {:ok, authorities} <- authorities() do
      {:ok,
       ssl: [
         verify: :verify_peer,
         depth: 10,
         cacerts: authorities,
         customize_hostname_check: [match_fun: match]
       ]}
    end
  end

  # SSL_CERT_FILE as OpenSSL has it, for a network with an authority of its own.
  defp authorities do
    with file when file not in [nil, ""] <- System.get_env("SSL_CERT_FILE"),
         {:error, reason} <- :public_key.cacerts_load(String.to_charlist(file)) do
      {:error, "SSL_CERT_FILE cannot be used (#{inspect(reason)})"}
    else
      _loaded -> {:ok, :public_key.cacerts_get()}
    end
  rescue
    _error in [ErlangError, MatchError, ArgumentError] ->
      {:error, "this machine has no certificates of authorities (Debian: ca-certificates)"}
  end

  # As curl reads them: HTTP_PROXY in capitals could come from a request's header.
  defp proxies("http"), do: proxy(:proxy, ["http_proxy"])
  defp proxies("https"), do: proxy(:https_proxy, ["https_proxy", "HTTPS_PROXY"])

  defp proxy(key, variables) do
    case variable(variables) do
      nil ->
        {[], []}

      text ->
        proxy = URI.parse(if text =~ "://", do: text, else: "http://" <> text)
        address = {String.to_charlist(proxy.host || ""), proxy.port}
        {[{key, {address, no_proxy(variable(["no_proxy", "NO_PROXY"]))}}], login(proxy.userinfo)}
    end
  end

  defp login(nil), do: []

  defp login(userinfo) do
    [user | password] = String.split(userinfo, ":", parts: 2)
    decode = &(&1 |> URI.decode() |> String.to_charlist())
    [proxy_auth: {decode.(user), decode.(Enum.join(password))}]
  end

  # curl takes a name for itself and all below it; httpc wants a pattern for the latter.
  defp no_proxy(nil), do: []

  defp no_proxy(text) do
    for entry <- String.split(text, [",", " "], trim: true),
        pattern <- patterns(String.trim_leading(entry, ".")),
        do: String.to_charlist(pattern)
  end

  defp patterns("*"), do: ["*"]
  defp patterns(name), do: [name, "*." <> name]

  defp variable(names) do
    Enum.find_value(names, fn name ->
      value = System.get_env(name)
      if value not in [nil, ""], do: value
    end)
  end
end
