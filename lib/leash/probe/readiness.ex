defmodule Leash.Probe.Readiness do
  # Waits until a worker answers, if no line of its output reports readiness.
  @moduledoc false

  alias Leash.Callback
  alias Leash.Probe
  alias Leash.Probe.{Address, HTTP}
  alias Leash.Worker.Protocol

  # How long another process may take to answer at the worker's address.
  @free_ms 2_000

  # How long one question may take. Then the next one is asked.
  @ask_ms 1_000

  # No event reports that a process begins to listen, so this is the interval of the questions. A
  # function may cost more than a refused connection.
  @interval_ms 20
  @function_interval_ms 50

  @doc false
  @spec expected() :: String.t()
  def expected do
    "a regex for a line of stdout, {:tcp, port}, {:http, target} (#{HTTP.expected()}), or a " <>
      "function of no or one argument"
  end

  @doc "Returns the quoted type."
  @spec typespec() :: Macro.t()
  def typespec do
    quote do
      Regex.t()
      | {:tcp, :inet.port_number()}
      | {:http, unquote(HTTP.typespec())}
      | (() -> term())
      | (map() -> term())
    end
  end

  @doc false
  @spec check(term()) :: {:ok, term()} | {:error, String.t()}
  def check(ready),
    do: if(is_struct(ready, Regex) or valid?(ready), do: {:ok, ready}, else: {:error, expected()})

  defp valid?({kind, _target} = ready) when kind in [:tcp, :http], do: Probe.valid?(ready)
  defp valid?(ready), do: is_function(ready, 0) or is_function(ready, 1)

  @doc """
  Checks that no process answers yet at the worker's address.

  The answer of another process could not be told from the worker's.
  """
  @spec free(term()) :: :ok | {:error, {:port_in_use, :inet.port_number()}}
  def free({:tcp, port}), do: free(Address.this_machine(), port)

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
    question = question(ready, label, info)

    _ =
      spawn_link(
        Callback.inherit(fn ->
          # The process of a function is linked to this one.
          Process.flag(:trap_exit, true)
          ask(question, worker, Process.monitor(worker))
        end)
      )

    :ok
  end

  defp question(ready, label, info) do
    cond do
      is_function(ready, 1) -> {Callback.new(:ready, label, ready), [info.()]}
      is_function(ready, 0) -> {Callback.new(:ready, label, ready), []}
      true -> ready
    end
  end

  defp ask(question, worker, monitor) do
    case answer(question, monitor) do
      :ok ->
        Protocol.ready(worker)

      :stopped ->
        log(question, {:error, {:timeout, :infinity}})

      not_yet ->
        receive do
          {:DOWN, ^monitor, :process, _pid, _reason} -> log(question, not_yet)
        after
          pause(question) -> ask(question, worker, monitor)
        end
    end
  end

  defp answer({%Callback{} = callback, arguments}, monitor) do
    result = Callback.run_within(callback, arguments, :infinity, monitor)
    if result != :stopped and Probe.judge(result) == :ok, do: :ok, else: result
  end

  defp answer(connection, _monitor), do: Probe.connect(connection, @ask_ms)

  defp pause({%Callback{}, _arguments}), do: @function_interval_ms
  defp pause(_connection), do: @interval_ms

  defp log({%Callback{} = callback, _arguments}, {:error, failure}),
    do: Callback.log(callback, failure)

  defp log(_question, _answer), do: :ok
end
