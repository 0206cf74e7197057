defmodule Leash.Worker.ReadyProbe do
  # Waiting until a worker answers, where no line of its output says so.
  @moduledoc false

  alias Leash.Worker.{Address, Check, HttpGet}

  # How long somebody else may take to answer where the worker will.
  @free_ms 500

  # How long one question may take; then the next one is asked.
  @ask_ms 1_000

  # There is nothing to be woken by when somebody else begins to listen; this is how often to ask. A function may
  # cost more than a refused connection.
  @interval_ms 20
  @function_interval_ms 50

  @doc false
  @spec valid?(term()) :: boolean()
  def valid?({kind, _target} = ready) when kind in [:tcp, :http], do: Check.valid?(ready)
  def valid?(ready), do: is_function(ready, 0) or is_function(ready, 1)

  @doc "Whether nobody answers yet where a worker will, which could not be told from it."
  @spec free(term()) :: :ok | {:error, {:port_in_use, :inet.port_number()}}
  def free({:tcp, port}), do: free(Address.this_machine(), port)

  def free({:http, target}) do
    {:ok, %{addresses: addresses, port: port}} = HttpGet.parse(target)

    # Of another host, or of a name for whatever address, a front may answer before the worker does.
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

  @doc "Asks until all is well, then sends the calling Worker `{:output_ready, pid}`. Lines of output are not its business."
  @spec start(term(), (() -> map())) :: :ok
  def start(nil, _info), do: :ok
  def start(ready, _info) when is_struct(ready, Regex), do: :ok

  def start(ready, info) do
    {question, pause} = question(ready, info)
    worker = self()
    _ = spawn_link(fn -> ask(question, pause, worker, Process.monitor(worker)) end)
    :ok
  end

  defp question(ready, info) when is_function(ready, 1) do
    info = info.()
    {fn -> Check.call(fn -> ready.(info) end) end, @function_interval_ms}
  end

  defp question(ready, _info) when is_function(ready, 0),
    do: {fn -> Check.call(ready) end, @function_interval_ms}

  defp question(ready, _info), do: {fn -> Check.run(ready, @ask_ms) end, @interval_ms}

  defp ask(question, pause, worker, monitor) do
    case question.() do
      :ok ->
        send(worker, {:output_ready, self()})

      {:error, _not_yet} ->
        receive do
          {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
        after
          pause -> ask(question, pause, worker, monitor)
        end
    end
  end
end
