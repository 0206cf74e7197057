defmodule Leash.Probe.HTTP do
  # Sends one GET, for the status alone.
  #
  # OTP's httpc would need the application :inets, started and in every release of a host, for a
  # request line and a status line. There are no TLS, redirects or proxies, because the worker
  # itself is asked.
  @moduledoc false

  alias Leash.Probe.Address

  @typedoc "A port of this machine, with or without a path, or an address."
  @type target :: :inet.port_number() | {:inet.port_number(), String.t()} | String.t()

  @type parsed :: %{
          host: String.t(),
          addresses: [Address.t()],
          port: :inet.port_number(),
          path: String.t()
        }

  # Informational responses before the one that counts. A server that sends more will not answer.
  @informational 5

  @doc false
  @spec expected() :: String.t()
  def expected, do: "a port, {port, \"/path\"} or \"http://host:port/path\""

  @doc "Returns the quoted type of a target."
  @spec typespec() :: Macro.t()
  def typespec,
    do: quote(do: :inet.port_number() | {:inet.port_number(), String.t()} | String.t())

  @doc "Parses a target. Returns `:error` for an invalid one."
  @spec parse(term()) :: {:ok, parsed()} | :error
  def parse(port) when is_integer(port), do: parse({port, "/"})

  def parse({port, path}) when is_integer(port) and port in 1..65_535 do
    if path?(path),
      do: {:ok, %{host: "127.0.0.1", addresses: Address.this_machine(), port: port, path: path}},
      else: :error
  end

  def parse(url) when is_binary(url) do
    # URI.new/1 raises for bytes that are no UTF-8.
    with true <- String.valid?(url),
         {:ok, %URI{scheme: "http", userinfo: nil, fragment: nil} = uri} <- URI.new(url),
         %URI{host: host, port: port} when is_binary(host) and host != "" and port in 1..65_535 <-
           uri,
         path = (uri.path || "/") <> if(uri.query, do: "?" <> uri.query, else: ""),
         true <- path?(path) do
      {:ok, %{host: host, addresses: Address.of(host), port: port, path: path}}
    else
      _no_target -> :error
    end
  end

  def parse(_other), do: :error

  # The path goes into the request line unchanged.
  defp path?(path), do: is_binary(path) and path =~ ~r/\A\/[!-~]*\z/

  @doc "Returns the status of the answer, within so many milliseconds."
  @spec status(parsed(), non_neg_integer()) :: {:ok, 100..999} | {:error, term()}
  def status(target, ms) do
    deadline = System.monotonic_time(:millisecond) + ms

    with {:ok, socket} <- connect(target, deadline) do
      try do
        with :ok <- :gen_tcp.send(socket, request(target)), do: answer(socket, deadline, 0)
      after
        :gen_tcp.close(socket)
      end
    end
  end

  defp connect(target, deadline) do
    options = [:binary, active: false, packet: :http_bin, send_timeout: left(deadline)]
    Address.connect(target.addresses, target.port, options, fn -> left(deadline) end)
  end

  defp request(target) do
    host = if String.contains?(target.host, ":"), do: "[#{target.host}]", else: target.host

    "GET #{target.path} HTTP/1.1\r\nHost: #{host}:#{target.port}\r\nAccept: " <>
      "*/*\r\nUser-Agent: leash\r\nConnection: close\r\n\r\n"
  end

  defp answer(socket, deadline, informational) do
    case :gen_tcp.recv(socket, 0, left(deadline)) do
      {:ok, {:http_response, _version, status, _reason}}
      when status in 100..199 and informational < @informational ->
        with :ok <- skip_headers(socket, deadline),
             do: answer(socket, deadline, informational + 1)

      {:ok, {:http_response, _version, status, _reason}} ->
        {:ok, status}

      {:ok, _no_http} ->
        {:error, :no_http}

      {:error, reason} ->
        {:error, reason}
    end
  end

  defp skip_headers(socket, deadline) do
    case :gen_tcp.recv(socket, 0, left(deadline)) do
      {:ok, :http_eoh} -> :ok
      {:ok, {:http_header, _, _, _, _}} -> skip_headers(socket, deadline)
      {:ok, _no_http} -> {:error, :no_http}
      {:error, reason} -> {:error, reason}
    end
  end

  defp left(deadline), do: max(0, deadline - System.monotonic_time(:millisecond))
end
