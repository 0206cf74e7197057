defmodule Leash.Worker.Check do
  # One question to a worker: does it answer? Asked for `ready:` until it does, and for `health:` again and again.
  @moduledoc false

  alias Leash.Worker.{Address, HttpGet}

  @type t ::
          {:tcp, :inet.port_number()}
          | {:http, HttpGet.target()}
          | (() -> term())
          | {module(), atom(), [term()]}

  @typedoc "Why it is not well."
  @type reason ::
          :timeout
          | {:status, 100..999}
          | {:returned, term()}
          | {:raised, term()}
          | atom()
          | tuple()

  @doc false
  @spec valid?(term()) :: boolean()
  def valid?({:tcp, port}), do: is_integer(port) and port in 1..65_535
  def valid?({:http, target}), do: HttpGet.parse(target) != :error

  def valid?({module, function, args}),
    do: is_atom(module) and is_atom(function) and is_list(args)

  def valid?(check), do: is_function(check, 0)

  @doc """
  Asks once. Whoever calls has to bound a function himself; connections are given up after so many milliseconds.

  A function is content with `true`, `:ok` or `{:ok, term}`.
  """
  @spec run(t(), non_neg_integer()) :: :ok | {:error, reason()}
  def run({:tcp, port}, ms) do
    with {:ok, socket} <- Address.connect(Address.this_machine(), port, [], fn -> ms end),
         do: :gen_tcp.close(socket)
  end

  def run({:http, target}, ms) do
    {:ok, target} = HttpGet.parse(target)

    case HttpGet.status(target, ms) do
      {:ok, 200} -> :ok
      {:ok, status} -> {:error, {:status, status}}
      {:error, reason} -> {:error, reason}
    end
  end

  def run({module, function, args}, _ms), do: call(fn -> apply(module, function, args) end)
  def run(function, _ms), do: call(function)

  @doc "Calls a function that says whether all is well."
  @spec call((() -> term())) :: :ok | {:error, {:returned, term()} | {:raised, term()}}
  def call(function) do
    case function.() do
      good when good in [true, :ok] -> :ok
      {:ok, _term} -> :ok
      other -> {:error, {:returned, other}}
    end
  rescue
    error -> {:error, {:raised, error}}
  catch
    kind, reason -> {:error, {:raised, {kind, reason}}}
  end
end
