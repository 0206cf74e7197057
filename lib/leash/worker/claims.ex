defmodule Leash.Worker.Claims do
  # The resources that a program needs for itself alone: its name, the ports at which it is asked,
  # and the files that it writes.
  @moduledoc false

  alias Leash.Probe.{Address, HTTP}
  alias Leash.Registry

  @doc "Returns the claims of these options."
  @spec of(map()) :: [Registry.claim()]
  def of(options) do
    name = if options[:name] != nil, do: [{:name, options.name}], else: []
    asked = [options[:ready], (options[:health] || [])[:check]]
    own = for {_stream, %{path: path}} <- options[:files] || %{}, do: {:file, path}
    files = Enum.flat_map([options.stdout, options.stderr | own], &file(&1, options))
    Enum.uniq(name ++ Enum.flat_map(asked, &port/1) ++ files)
  end

  defp port({:tcp, target}) do
    {:ok, {addresses, port}} = Address.tcp(target)
    if Enum.any?(addresses, &Address.loopback?/1), do: [{:port, port}], else: []
  end

  defp port({:unix, path}), do: [{:port, path}]

  defp port({:http, target}) do
    {:ok, %{addresses: addresses, port: port}} = HTTP.parse(target)
    if Enum.any?(addresses, &Address.loopback?/1), do: [{:port, port}], else: []
  end

  defp port(_no_port), do: []

  # Only the same program has the claim: other programs that append to one log do not wait for
  # each other's ladders. The shim opens the file after it has entered the directory of :cd.
  defp file({:file, path}, options) do
    path = if options[:cd], do: Path.expand(path, options.cd), else: Path.expand(path)
    [{:file, path, [options.command | options.args]}]
  end

  defp file(_no_file, _options), do: []
end
