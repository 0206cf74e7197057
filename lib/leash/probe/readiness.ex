defmodule Leash.Probe.Readiness do
  # Waits until a worker answers, if no line of its output reports readiness.
  @moduledoc false

  alias Leash.Probe
  alias Leash.Probe.{Address, HTTP, Poll}
  alias Leash.Worker.Protocol

  # How long another process may take to answer at the worker's address.
  @free_ms 2_000

  @doc false
  @spec expected() :: String.t()
  def expected do
    "a regex for a line of stdout, #{Probe.addresses()}, or a function of no or one argument"
  end

  @doc "Returns the quoted type."
  @spec typespec() :: Macro.t()
  def typespec do
    quote do
      Regex.t()
      | unquote(Probe.typespec())
      | (() -> term())
      | (map() -> term())
    end
  end

  @doc false
  @spec check(term()) :: {:ok, term()} | {:error, String.t()}
  def check(ready),
    do: if(is_struct(ready, Regex) or valid?(ready), do: {:ok, ready}, else: {:error, expected()})

  defp valid?({kind, _target} = ready) when kind in [:tcp, :unix, :http], do: Probe.valid?(ready)
  defp valid?(ready), do: is_function(ready, 0) or is_function(ready, 1)

  @doc """
  Checks that no process answers yet at the worker's address.

  The answer of another process could not be told from the worker's.
  """
  @spec free(term()) :: :ok | {:error, {:port_in_use, :inet.port_number() | Path.t()}}
  def free({:tcp, target}) do
    {:ok, {addresses, port}} = Address.tcp(target)
    addresses |> Enum.filter(&Address.loopback?/1) |> free(port)
  end

  # A socket file without a listener, which a killed server leaves, refuses connections.
  def free({:unix, path} = socket) do
    with :ok <- Probe.connect(socket, @free_ms),
         do: {:error, {:port_in_use, path}},
         else: (_ -> :ok)
  end

  def free({:http, target}) do
    {:ok, %{addresses: addresses, port: port}} = HTTP.parse(target)

    # On another host, or a name for any address, a front may answer before the worker does.
    addresses |> Enum.filter(&Address.loopback?/1) |> free(port)
  end

  def free(_no_port), do: :ok

  defp free(addresses, port) do
    case Address.connect(addresses, port, [], fn -> @free_ms end) do
      {:ok, socket} ->
        :ok = :gen_tcp.close(socket)
        {:error, {:port_in_use, port}}

      {:error, _nobody} ->
        :ok
    end
  end

  @doc """
  Asks until the answer is good, then sends the calling Worker `{:output_ready, pid}`.

  A regex needs no question. If a function fails, it is asked again. If the worker ends before it
  is ready, the log says how the last call failed, or that it did not return.
  """
  @spec start(term(), String.t(), (() -> map())) :: :ok
  def start(ready, _label, _info) when is_struct(ready, Regex), do: :ok

  def start(ready, label, info) do
    worker = self()
    arguments = if is_function(ready, 1), do: [info.()], else: []
    question = Poll.question(ready, arguments, :ready, label)
    _ = Poll.start_link(question, worker, fn -> Protocol.ready(worker) end)
    :ok
  end
end
